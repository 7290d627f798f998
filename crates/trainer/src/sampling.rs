//! Writing text with a model, one character at a time.

use poquelin_data::Vocabulary;
use poquelin_model::{CharLstm, Decoder, Seed, Writer, choose};

/// How the next character is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits: 1 for the model's own probabilities, less for safer guesses, 0 for the
    /// likeliest character each time.
    pub temperature: f64,
    /// The choice at each place follows from this seed and the place.
    pub seed: Seed,
}

/// Reads `prompt`, then writes `length` characters one after the other, calling `emit` with each.
/// The recurrent state is carried from character to character.
///
/// This is work for the CPU, wherever the network is: a single lane leaves a GPU idle.
///
/// # Errors
///
/// The first error of `emit`, which ends the writing.
///
/// # Panics
///
/// Where the prompt is empty or has a token that the model does not know.
pub fn generate<E>(
    network: &CharLstm,
    prompt: &[u32],
    length: usize,
    sampling: Sampling,
    mut emit: impl FnMut(u32) -> Result<(), E>,
) -> Result<(), E> {
    let (&last, before) = prompt.split_last().expect("a prompt has at least one character");
    let mut decoder = Decoder::new(network, 1);
    for &token in before {
        decoder.step(&[token]);
    }
    let mut sampler = Sampler::new(sampling);
    let mut token = last;
    for place in 0..length {
        token = sampler.choose(decoder.step(&[token]), place);
        emit(token)?;
    }
    Ok(())
}

/// Reads `prompt`, then writes as many `texts` of `length` characters, each behind a seed of its own;
/// the first is the one that [`generate`] writes. Together they are written faster than one after
/// the other, on a GPU where the network is on one (see [`Writer`]); a GPU rounds otherwise, and so do many
/// texts at a time: where two characters are as good as equal the other one may be chosen.
///
/// # Panics
///
/// As [`generate`], and where no text is asked for.
pub fn generate_texts(
    network: &CharLstm,
    prompt: &[u32],
    texts: usize,
    length: usize,
    sampling: Sampling,
) -> Vec<Vec<u32>> {
    /// Characters of each text between two readings from a GPU.
    const PAGE: usize = 256;
    assert!(!prompt.is_empty(), "a prompt has at least one character");
    let mut writer = Writer::new(network, texts, sampling.temperature);
    let sampler = |text: u64| match text {
        0 => Sampler::new(sampling),
        _ => Sampler::new(Sampling { seed: sampling.seed.derive("text", text), ..sampling }),
    };
    let samplers: Vec<Sampler> = (0..texts as u64).map(sampler).collect();
    let mut written = vec![Vec::new(); texts];
    writer.read(prompt);
    for start in (0..length).step_by(PAGE) {
        let places = start..length.min(start.saturating_add(PAGE));
        let uniforms: Vec<f64> = places
            .flat_map(|place| samplers.iter().map(move |sampler| sampler.uniform(place)))
            .collect();
        for tokens in writer.write(&uniforms).chunks_exact(texts) {
            written.iter_mut().zip(tokens).for_each(|(text, &token)| text.push(token));
        }
    }
    written
}

/// What the vocabulary has of `prompt`, or its first symbol where it has nothing.
pub fn known_prompt(vocabulary: &Vocabulary, prompt: &str) -> Vec<u32> {
    match vocabulary.encode_known(prompt) {
        tokens if tokens.is_empty() => vec![0],
        tokens => tokens,
    }
}

/// A text of `length` characters behind what the vocabulary has of `prompt`, which is left out; where somebody
/// asks to `stop`, what there is of it.
pub fn write_sample(
    network: &CharLstm,
    vocabulary: &Vocabulary,
    prompt: &str,
    length: usize,
    sampling: Sampling,
    stop: impl Fn() -> bool,
) -> String {
    let prompt = known_prompt(vocabulary, prompt);
    let mut tokens = Vec::new();
    let _stopped = generate(network, &prompt, length, sampling, |token| {
        tokens.push(token);
        if stop() { Err(()) } else { Ok(()) }
    });
    vocabulary.decode(&tokens)
}

/// Chooses characters.
#[derive(Clone, Debug)]
pub struct Sampler {
    temperature: f64,
    seed: Seed,
    /// The weights of the latest choice.
    weights: Vec<f32>,
}

impl Sampler {
    /// Chooses so.
    pub fn new(Sampling { temperature, seed }: Sampling) -> Self {
        Self { temperature, seed: seed.derive("sampling", 0), weights: Vec::new() }
    }

    /// Chooses the token at a place by what the model scores there.
    pub fn choose(&mut self, logits: &[f32], place: usize) -> u32 {
        choose(logits, self.temperature, self.uniform(place), &mut self.weights)
    }

    /// One number is all a place needs: that of its seed, in [0, 1).
    fn uniform(&self, place: usize) -> f64 {
        (self.seed.derive("", place as u64).value() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use poquelin_model::CharLstmConfig;

    use super::*;
    use crate::device::{Backend, DeviceChoice};

    #[test]
    fn draws_follow_the_probabilities() {
        let probabilities = [0.5, 0.3, 0.15, 0.05];
        let logits = probabilities.map(|p: f32| p.ln());
        let draws = 20_000;
        for temperature in [1.0, 0.5] {
            let mut sampler = Sampler::new(Sampling { temperature, seed: Seed::new(3) });
            let mut counts = [0.0; 4];
            (0..draws).for_each(|place| counts[sampler.choose(&logits, place) as usize] += 1.0);
            let sharpened = probabilities.map(|p| f64::from(p).powf(1.0 / temperature));
            let total: f64 = sharpened.iter().sum();
            for (count, weight) in counts.iter().zip(sharpened) {
                // Four standard deviations of the binomial, at most.
                assert!((count / draws as f64 - weight / total).abs() < 0.015, "{counts:?}");
            }
        }
    }

    #[test]
    fn the_first_of_many_texts_is_the_single_one() {
        let mut backends = Backend::compiled_in();
        let cpu = backends.find(|backend| matches!(backend, Backend::NdArray | Backend::Flex));
        let Some(backend) = cpu else {
            eprintln!("SKIPPED: writing, for this build has no CPU backend");
            return;
        };
        let device = DeviceChoice { backend, index: None }.open().expect("a CPU is there");
        let network = CharLstmConfig::new(20, 16).init(Seed::new(4), &device);
        let sampling = Sampling { temperature: 0.9, seed: Seed::new(2) };
        let mut single = Vec::new();
        let Ok(()) = generate(&network, &[3, 7], 50, sampling, |token| {
            single.push(token);
            Ok::<(), std::convert::Infallible>(())
        });
        let texts = generate_texts(&network, &[3, 7], 3, 50, sampling);
        assert_eq!(texts[0], single);
        assert!(texts[0] != texts[1] && texts[1] != texts[2] && texts[0] != texts[2]);
    }

    #[test]
    fn temperature_zero_takes_the_likeliest() {
        let mut sampler = Sampler::new(Sampling { temperature: 0.0, seed: Seed::new(0) });
        assert!((0..100).all(|place| sampler.choose(&[0.1, 2.0, 1.9], place) == 1));
    }
}
