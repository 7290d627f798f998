//! What each thread owns.

use super::{HeadWeights, LayerWeights};
use crate::kernels::packing;
use crate::kernels::parallel::Piece;

/// Units that are not divided: their gates fill whole panels.
const UNITS: usize = 16;

/// What a thread is to own.
#[derive(Debug)]
pub(super) struct Portion {
    /// Columns of the head.
    pub(super) columns: Piece,
    /// Units of every layer.
    pub(super) units: Vec<Piece>,
}

/// Divides the head's columns and then the units of all layers into so many portions, or fewer, of
/// the same work. The first, the caller's, has the head where that is no more than its share.
pub(super) fn portions(
    layers: &[LayerWeights],
    head: &HeadWeights,
    parts: usize,
    lanes: usize,
) -> Vec<Portion> {
    /// What it costs to choose by a score, in multiplications.
    const CHOICE: f64 = 96.0;
    /// Numbers of the layers' weights that a thread's second-level cache holds.
    const NEAR: f64 = (1 << 18) as f64;
    /// Lanes that wait for weights from farther away rather than for their products.
    const FEW: usize = 2;
    /// How often the time of its multiplications the head takes then: it pushes weights of the layers
    /// out of the cache.
    const FAR: f64 = 2.5;
    let of_layers = layers.iter().map(LayerWeights::work).sum::<usize>() as f64;
    let is_far = lanes <= FEW && of_layers > NEAR * parts as f64;
    let of_weight = if is_far { FAR } else { 1.0 } * head.weight.len() as f64;
    let of_head = of_weight + CHOICE * head.bias.len() as f64;
    // How much of the work stands before a part.
    let before = |index: usize| (of_head + of_layers) * index as f64 / parts as f64;
    let columns = |index| cut(before(index) / of_head, head.bias.len(), packing::WIDTH);
    let units = |index, hidden| cut((before(index) - of_head) / of_layers, hidden, UNITS);
    let portion = |index| Portion {
        columns: Piece::between(columns(index), columns(index + 1)),
        units: layers
            .iter()
            .map(|layer| Piece::between(units(index, layer.hidden), units(index + 1, layer.hidden)))
            .collect(),
    };
    let is_something = |Portion { columns, units }: &Portion| columns.length + units[0].length > 0;
    (0..parts).map(portion).filter(is_something).collect()
}

/// Where a share of 0..`count` ends, in whole multiples of `unit`.
fn cut(share: f64, count: usize, unit: usize) -> usize {
    /// Sums that should be 1 may not be quite.
    const NEARLY_ALL: f64 = 1.0 - 1e-9;
    match share {
        NEARLY_ALL.. => count,
        _ => count.min((share.max(0.0) * count as f64 / unit as f64).round() as usize * unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(hidden: usize, input: Option<usize>) -> LayerWeights {
        LayerWeights {
            hidden,
            start: vec![0.0; 4 * hidden],
            input: input.map(|width| vec![0.0; width * 4 * hidden]),
            recurrent: vec![0.0; hidden * 4 * hidden],
        }
    }

    #[test]
    fn portions_are_all_there_is_once() {
        for (hidden, vocabulary) in [(1, 1), (7, 300), (16, 20), (128, 76), (300, 31), (512, 5000)]
        {
            let layers = [layer(hidden, None), layer(hidden, Some(hidden))];
            let head =
                HeadWeights { weight: vec![0.0; hidden * vocabulary], bias: vec![0.0; vocabulary] };
            for parts in 1..10 {
                let portions = portions(&layers, &head, parts, 1);
                assert!((1..=parts).contains(&portions.len()));
                let mut ends = [0; 3];
                for Portion { columns, units } in &portions {
                    assert!(columns.length + units[0].length > 0, "a thread without work");
                    for (end, piece) in ends.iter_mut().zip([columns, &units[0], &units[1]]) {
                        assert_eq!(piece.start, *end);
                        *end += piece.length;
                    }
                }
                assert_eq!(ends, [vocabulary, hidden, hidden], "{parts} parts of {hidden}");
            }
        }
    }

    #[test]
    fn who_has_the_head_has_fewer_units() {
        let head = HeadWeights { weight: vec![0.0; 128 * 76], bias: vec![0.0; 76] };
        let near = portions(&[layer(128, None)], &head, 2, 1);
        let [first, second] = near.as_slice() else { panic!("{near:?}") };
        assert_eq!([first.columns.length, second.columns.length], [76, 0]);
        assert!(first.units[0].length < second.units[0].length);
        // Fewer still where its weight is in the others' way.
        let head = HeadWeights { weight: vec![0.0; 512 * 76], bias: vec![0.0; 76] };
        let first = |lanes| portions(&[layer(512, None)], &head, 2, lanes)[0].units[0].length;
        assert_eq!([first(1), first(64)], [224, 240]);
    }
}
