//! Writing text with a model, one character at a time.

use poquelin_data::Vocabulary;
use poquelin_model::{CharLstm, Decoder, Seed, softmax_weights};

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
) -> String {
    let prompt = known_prompt(vocabulary, prompt);
    let mut tokens = Vec::with_capacity(length);
    let Ok(()) = generate(network, &prompt, length, sampling, |token| {
        tokens.push(token);
        Ok::<(), std::convert::Infallible>(())
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

    /// Draws a token from softmax(logits / temperature).
    pub fn choose(&mut self, logits: &[f32], place: usize) -> u32 {
        let Self { temperature, seed, weights } = self;
        if *temperature == 0.0 {
            let likeliest = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            return likeliest.expect("a vocabulary has at least one symbol").0 as u32;
        }
        let total = softmax_weights(logits, (*temperature as f32).max(f32::MIN_POSITIVE), weights);
        // One number is all a place needs: that of its seed, in [0, 1).
        let uniform = (seed.derive("", place as u64).value() >> 11) as f64 / (1_u64 << 53) as f64;
        let mut left = uniform * f64::from(total);
        for (token, &weight) in weights.iter().enumerate() {
            left -= f64::from(weight);
            if left < 0.0 {
                return token as u32;
            }
        }
        // Rounding can leave a crumb behind the last weight.
        let heaviest = weights.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        heaviest.expect("a vocabulary has at least one symbol").0 as u32
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
    fn temperature_zero_takes_the_likeliest() {
        let mut sampler = Sampler::new(Sampling { temperature: 0.0, seed: Seed::new(0) });
        assert!((0..100).all(|place| sampler.choose(&[0.1, 2.0, 1.9], place) == 1));
    }
}
