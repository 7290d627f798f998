//! Writing: reading what was written last, scoring what may follow, choosing.

use crate::kernels::cross_entropy::softmax_weights;
use crate::{CharLstm, Decoder};

/// A [`CharLstm`] that writes in some lanes at once.
///
/// On a GPU a cube takes lanes through many steps by itself, the choice of each token included, and
/// the host hears of it at the end: a handful of launches for hundreds of characters. On the CPU a
/// [`Decoder`] makes the steps.
///
/// ```
/// use poquelin_model::{CharLstmConfig, Seed, Writer};
///
/// # #[cfg(feature = "ndarray")] {
/// let device = poquelin_model::devices::ndarray();
/// let network = CharLstmConfig::new(30, 16).init(Seed::new(1), &device);
/// let mut writer = Writer::new(&network, 2, 1.0);
/// writer.read(&[3, 29]);
/// let tokens = writer.write(&[0.1, 0.9, 0.5, 0.5]);
/// assert_eq!(tokens.len(), 2 * 2);
/// # }
/// ```
#[derive(Debug)]
pub struct Writer {
    hand: Hand,
    lanes: usize,
    vocabulary: usize,
    /// What has not been read yet, `[G, B]`.
    given: Vec<u32>,
}

/// Who writes.
#[derive(Debug)]
enum Hand {
    Cpu {
        decoder: Box<Decoder>,
        temperature: f64,
    },
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    Gpu(Box<crate::backends::cube::Writing>),
}

impl Writer {
    /// Lanes whose states begin as zeros, where they are written faster: on the network's own device
    /// if that is a GPU and there are lanes for it, else on the CPU. A single lane leaves a GPU idle,
    /// and what only plays a GPU is a CPU.
    ///
    /// `temperature` divides the scores: 1 for the network's own probabilities, less for safer
    /// guesses, 0 for the likeliest token each time.
    ///
    /// # Panics
    ///
    /// Where there is no lane, the temperature is not at least 0, or the network does not compute in
    /// float32.
    pub fn new(network: &CharLstm, lanes: usize, temperature: f64) -> Self {
        /// Lanes that are worth the way to a GPU.
        const MANY: usize = 8;
        let device = network.embedding.val().device();
        let is_card = || crate::devices::hardware(&device).is_some_and(|found| found.is_card);
        let there = match lanes >= MANY && is_card() {
            true => Self::on_device(network, lanes, temperature),
            false => None,
        };
        there.unwrap_or_else(|| Self::on_cpu(network, lanes, temperature))
    }

    /// As [`new`](Self::new), on the CPU.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn on_cpu(network: &CharLstm, lanes: usize, temperature: f64) -> Self {
        assert!(temperature >= 0.0, "a temperature of at least 0, not {temperature}");
        let decoder = Box::new(Decoder::new(network, lanes));
        let hand = Hand::Cpu { decoder, temperature };
        Self { hand, lanes, vocabulary: network.vocabulary(), given: Vec::new() }
    }

    /// As [`new`](Self::new), on the network's device; `None` where that is no device of CubeCL's
    /// (wgpu, vulkan, metal, cuda), or too small for the network.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn on_device(network: &CharLstm, lanes: usize, temperature: f64) -> Option<Self> {
        assert!(lanes > 0, "a writer has at least one lane");
        assert!(temperature >= 0.0, "a temperature of at least 0, not {temperature}");
        let hand = gpu(network, lanes, temperature)?;
        Some(Self { hand, lanes, vocabulary: network.vocabulary(), given: Vec::new() })
    }

    /// Whether a GPU writes.
    pub fn is_on_device(&self) -> bool {
        !matches!(self.hand, Hand::Cpu { .. })
    }

    /// Goes on with these tokens in every lane, behind what was written.
    ///
    /// # Panics
    ///
    /// Where one is not below V.
    pub fn read(&mut self, tokens: &[u32]) {
        for &token in tokens {
            let vocabulary = self.vocabulary;
            let known = (token as usize) < vocabulary;
            assert!(known, "token {token} is not below the vocabulary's {vocabulary}");
            self.given.extend((0..self.lanes).map(|_| token));
        }
    }

    /// Writes N tokens in every lane, chosen by numbers in [0, 1) as [`choose`] does; a GPU rounds them
    /// to float32.
    ///
    /// # Shapes
    ///
    /// - uniforms: `[N, B]`
    /// - result: `[N, B]`
    ///
    /// # Panics
    ///
    /// Where nothing was read before, or the numbers are not as many for each lane.
    pub fn write(&mut self, uniforms: &[f64]) -> Vec<u32> {
        let Self { hand, lanes, given, .. } = self;
        assert!(!given.is_empty(), "a writer reads something before it writes");
        assert!(uniforms.len().is_multiple_of(*lanes), "as many numbers for every lane");
        let given = std::mem::take(given);
        let written = match hand {
            Hand::Cpu { decoder, temperature } => write(decoder, *temperature, &given, uniforms),
            #[cfg(any(feature = "wgpu", feature = "cuda"))]
            Hand::Gpu(writing) => {
                let uniforms: Vec<f32> = uniforms.iter().map(|&number| number as f32).collect();
                writing.write(&given, &uniforms)
            }
        };
        // The last row is still to be read.
        let rows = if written.is_empty() { &given } else { &written };
        self.given = rows[rows.len() - self.lanes..].to_vec();
        written
    }

    /// B.
    pub fn lanes(&self) -> usize {
        self.lanes
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn gpu(network: &CharLstm, lanes: usize, temperature: f64) -> Option<Hand> {
    use burn::backend::DispatchDevice;

    use crate::backends::cube::Writing;
    use crate::decoder::read_weights;

    let device = network.embedding.val().device().without_autodiff();
    let DispatchDevice::Cube(device) = device.as_dispatch() else { return None };
    let writing = Writing::new(device, &read_weights(network), lanes, temperature as f32);
    writing.map(|writing| Hand::Gpu(Box::new(writing)))
}

#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
fn gpu(_: &CharLstm, _: usize, _: f64) -> Option<Hand> {
    None
}

fn write(decoder: &mut Decoder, temperature: f64, given: &[u32], uniforms: &[f64]) -> Vec<u32> {
    let lanes = decoder.lanes();
    let (before, last) = given.split_at(given.len() - lanes);
    for tokens in before.chunks_exact(lanes) {
        decoder.step(tokens);
    }
    let (mut latest, mut weights) = (last.to_vec(), Vec::new());
    let mut written = Vec::with_capacity(uniforms.len());
    for uniforms in uniforms.chunks_exact(lanes) {
        let scores = decoder.step(&latest);
        let scores = scores.chunks_exact(scores.len() / lanes);
        for ((token, scores), &uniform) in latest.iter_mut().zip(scores).zip(uniforms) {
            *token = choose(scores, temperature, uniform, &mut weights);
        }
        written.extend_from_slice(&latest);
    }
    written
}

/// Chooses a token by a number that is uniform in [0, 1): a draw from softmax(scores / temperature),
/// or the likeliest where the temperature, which is at least 0, is 0. `weights` is room to work in.
///
/// What is too unlikely for a float32 has e⁻⁸⁷.
///
/// # Panics
///
/// Where there is no token to choose.
pub fn choose(scores: &[f32], temperature: f64, uniform: f64, weights: &mut Vec<f32>) -> u32 {
    /// Weights that are passed by together: subtracted one by one each would wait for the one before.
    const BLOCK: usize = 8;
    let sum = |block: &[f32]| match block.first_chunk::<BLOCK>() {
        Some(block) => {
            let [a, b, c, d, e, f, g, h] = block.map(f64::from);
            ((a + b) + (c + d)) + ((e + f) + (g + h))
        }
        None => block.iter().copied().map(f64::from).sum(),
    };
    let heaviest = |numbers: &[f32]| {
        let heaviest = numbers.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        heaviest.expect("a vocabulary has at least one token").0 as u32
    };
    if temperature == 0.0 {
        return heaviest(scores);
    }
    let total = softmax_weights(scores, (temperature as f32).max(f32::MIN_POSITIVE), weights);
    let mut left = uniform * f64::from(total);
    for (index, block) in weights.chunks(BLOCK).enumerate() {
        let of_block = sum(block);
        if left >= of_block {
            left -= of_block;
            continue;
        }
        for (offset, &weight) in block.iter().enumerate() {
            left -= f64::from(weight);
            if left < 0.0 {
                return (index * BLOCK + offset) as u32;
            }
        }
    }
    // Rounding can leave a crumb behind the last weight.
    heaviest(weights)
}
