//! Writing text with a model, one character at a time.

use burn::tensor::{Device, Int, Tensor, TensorData};
use poquelin_data::Vocabulary;
use poquelin_model::{CharLstm, LstmState, Seed};
use rand::RngExt;

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
    device: &Device,
    mut emit: impl FnMut(u32) -> Result<(), E>,
) -> Result<(), E> {
    assert!(!prompt.is_empty(), "a prompt has at least one character");
    let (mut logits, mut state) = read(network, prompt, None, device);
    for place in 0..length {
        let token = sampling.choose(&logits, place);
        emit(token)?;
        if place + 1 < length {
            (logits, state) = read(network, &[token], Some(state), device);
        }
    }
    Ok(())
}

/// What the vocabulary has of `prompt`, or its first symbol where it has nothing.
pub fn known_prompt(vocabulary: &Vocabulary, prompt: &str) -> Vec<u32> {
    match vocabulary.encode_known(prompt) {
        tokens if tokens.is_empty() => vec![0],
        tokens => tokens,
    }
}

/// A text of `length` characters behind what the vocabulary has of `prompt`, which is left out.
pub fn write_sample(
    network: &CharLstm,
    vocabulary: &Vocabulary,
    prompt: &str,
    length: usize,
    sampling: Sampling,
    device: &Device,
) -> String {
    let prompt = known_prompt(vocabulary, prompt);
    let mut tokens = Vec::with_capacity(length);
    let Ok(()) = generate(network, &prompt, length, sampling, device, |token| {
        tokens.push(token);
        Ok::<(), std::convert::Infallible>(())
    });
    vocabulary.decode(&tokens)
}

/// The logits behind the last of `tokens`, and the state there.
fn read(
    network: &CharLstm,
    tokens: &[u32],
    state: Option<LstmState>,
    device: &Device,
) -> (Vec<f32>, LstmState) {
    let ids: Vec<i32> = tokens.iter().map(|&token| token as i32).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, tokens.len()]), device);
    let (logits, state) = network.forward(ids, state);
    let last = logits.narrow(1, tokens.len() - 1, 1);
    let values = last.into_data().try_into_vec().expect("the network computes in float32");
    (values, state)
}

impl Sampling {
    /// Draws a token from softmax(logits / temperature).
    pub fn choose(&self, logits: &[f32], place: usize) -> u32 {
        let (likeliest, highest) = logits
            .iter()
            .enumerate()
            .max_by(|a, b| a.1.total_cmp(b.1))
            .expect("a vocabulary has at least one symbol");
        if self.temperature == 0.0 {
            return likeliest as u32;
        }
        let weight = |logit: f32| (f64::from(logit - highest) / self.temperature).exp();
        let total: f64 = logits.iter().map(|&logit| weight(logit)).sum();
        let mut generator = self.seed.derive("sampling", place as u64).generator();
        let mut left = generator.random::<f64>() * total;
        for (token, &logit) in logits.iter().enumerate() {
            left -= weight(logit);
            if left < 0.0 {
                return token as u32;
            }
        }
        // Rounding can leave a crumb behind the last weight.
        likeliest as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_probabilities() {
        let probabilities = [0.5, 0.3, 0.15, 0.05];
        let logits = probabilities.map(|p: f32| p.ln());
        let draws = 20_000;
        for temperature in [1.0, 0.5] {
            let sampling = Sampling { temperature, seed: Seed::new(3) };
            let mut counts = [0.0; 4];
            (0..draws).for_each(|place| counts[sampling.choose(&logits, place) as usize] += 1.0);
            let sharpened = probabilities.map(|p| f64::from(p).powf(1.0 / temperature));
            let total: f64 = sharpened.iter().sum();
            for (count, weight) in counts.iter().zip(sharpened) {
                // Four standard deviations of the binomial, at most.
                assert!((count / draws as f64 - weight / total).abs() < 0.015, "{counts:?}");
            }
        }
    }

    #[test]
    fn temperature_zero_takes_the_likeliest() {
        let sampling = Sampling { temperature: 0.0, seed: Seed::new(0) };
        assert!((0..100).all(|place| sampling.choose(&[0.1, 2.0, 1.9], place) == 1));
    }
}
