//! Where to change from one algorithm to the next, from times of all of them at some sizes.

/// Returns, for each algorithm, the number of sizes up to which it or one before it is chosen, so that the algorithms
/// are used in their order: those numbers ascend, and the last is that of all sizes.
///
/// The choice has the least product of times, so a size counts as much as any other, and one odd time can't move a
/// boundary far. `times` are by algorithm and size; an infinite time is never chosen where there is another.
pub(super) fn boundaries(times: &[&[f64]]) -> Vec<usize> {
    let sizes = times.first().map_or(0, |times| times.len());
    let cost = |algorithm: usize, from: usize, to: usize| -> f64 {
        times[algorithm][from..to]
            .iter()
            .map(|time| time.ln())
            .sum()
    };
    // The least cost of the first sizes with the algorithms so far, and where the last of those begins.
    let mut least: Vec<f64> = (0..=sizes).map(|to| cost(0, 0, to)).collect();
    let mut begins: Vec<Vec<usize>> = Vec::new();
    for algorithm in 1..times.len() {
        let best = |to: usize| {
            let costs = (0..=to).map(|from| (least[from] + cost(algorithm, from, to), from));
            let better =
                |one: (f64, usize), other: (f64, usize)| if other.0 <= one.0 { other } else { one };
            costs.fold((f64::INFINITY, 0), better)
        };
        let (costs, from): (Vec<_>, Vec<_>) = (0..=sizes).map(best).unzip();
        least = costs;
        begins.push(from);
    }
    let mut ends = vec![sizes];
    for from in begins.iter().rev() {
        ends.push(from[ends[ends.len() - 1]]);
    }
    ends.reverse();
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_algorithm_has_the_sizes_at_which_it_is_fastest() {
        let (one, two, three) = (
            [1.0, 2.0, 9.0, 9.0],
            [2.0, 3.0, 4.0, 9.0],
            [5.0, 5.0, 5.0, 5.0],
        );
        assert_eq!(boundaries(&[&one, &two, &three]), [2, 3, 4]);
        assert_eq!(boundaries(&[&one, &three]), [2, 4]);
        assert_eq!(boundaries(&[&one]), [4]);
    }

    #[test]
    fn an_odd_time_moves_nothing() {
        let (one, two) = ([1.0, 1.0, 2.1, 1.0, 9.0], [2.0, 2.0, 2.0, 2.0, 2.0]);
        assert_eq!(boundaries(&[&one, &two]), [4, 5]);
    }

    #[test]
    fn an_algorithm_may_have_no_size() {
        let (slow, fast) = ([2.0, 2.0], [1.0, 1.0]);
        assert_eq!(boundaries(&[&slow, &fast]), [0, 2]);
        assert_eq!(boundaries(&[&fast, &slow]), [2, 2]);
        assert_eq!(boundaries(&[&fast, &slow, &slow]), [2, 2, 2]);
        assert_eq!(boundaries(&[&[][..], &[]]), [0, 0]);
    }

    #[test]
    fn what_was_not_measured_is_not_chosen() {
        let (some, all) = ([1.0, f64::INFINITY, f64::INFINITY], [2.0, 2.0, 2.0]);
        assert_eq!(boundaries(&[&some, &all]), [1, 3]);
    }
}
