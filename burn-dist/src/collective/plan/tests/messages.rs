//! What the messages of plans have in common: who hears of whom before it ends, how many messages and bytes a node
//! sends, and to how many others at a time.

use std::collections::BTreeSet;

use super::*;

/// The kinds and sizes of operations that reach every algorithm over several processes.
fn all_operations() -> impl Iterator<Item = Operation> {
    KINDS.into_iter().flat_map(|kind| {
        let counts = [1, 100, 700, 1_200, 9_000];
        counts.map(|count| operation_of::<f32>(kind, 0, ReduceOp::Sum, count))
    })
}

/// The steps of a node, the only rank of its process.
fn steps_of(operation: &Operation, nodes: usize, node: usize) -> Vec<Step> {
    let hosts: Vec<_> = (0..nodes).collect();
    let layout = Layout::new(0, &hosts, node).unwrap();
    plan(operation, &layout, node)
        .exchange
        .unwrap()
        .steps
        .collect()
}

#[test]
fn messages_without_the_call_come_after_it_was_compared() {
    for nodes in [2, 3, 4, 5, 8, 11] {
        for operation in all_operations() {
            for node in 0..nodes {
                let mut told = BTreeSet::new();
                let mut heard = 0;
                for batch in batches(steps_of(&operation, nodes, node).into_iter()) {
                    for (to, part, _) in batch.sends {
                        let has_call = told.contains(&to) || heard >= rounds::count(nodes);
                        let name = (operation.kind, operation.bytes);
                        assert!(part < AFTER_CALL || has_call, "{name:?}, {node} to {to}");
                        told.insert(to);
                    }
                    heard += u32::from(batch.receives.iter().any(|one| one.1 < AFTER_CALL));
                }
            }
        }
    }
}

#[test]
fn every_node_hears_of_all_before_it_ends() {
    for nodes in [2, 3, 4, 5, 6, 8, 11, 16] {
        for operation in all_operations() {
            let all = (0..nodes).map(|node| batches(steps_of(&operation, nodes, node).into_iter()));
            let known = heard_of(all.collect());
            for (node, known) in known.iter().enumerate() {
                let unheard: Vec<_> = (0..nodes).filter(|other| !known.contains(other)).collect();
                assert!(
                    unheard.is_empty(),
                    "{operation:?}: {node} not of {unheard:?}"
                );
            }
        }
    }
}

/// The nodes of which each has heard, by messages that carry the call, when all have done their steps.
fn heard_of(nodes: Vec<Vec<Batch>>) -> Vec<BTreeSet<usize>> {
    let mut known: Vec<_> = (0..nodes.len())
        .map(|node| BTreeSet::from([node]))
        .collect();
    let mut rests: Vec<VecDeque<_>> = nodes.into_iter().map(VecDeque::from).collect();
    let mut wire: HashMap<(usize, usize, u32), BTreeSet<usize>> = HashMap::new();
    while rests.iter().any(|rest| !rest.is_empty()) {
        for (node, rest) in rests.iter_mut().enumerate() {
            let Some(batch) = rest.front_mut() else {
                continue;
            };
            for (to, part, _) in std::mem::take(&mut batch.sends) {
                wire.insert((node, to, part), known[node].clone());
            }
            let mut receives = batch.receives.iter();
            if receives.all(|(from, part, _)| wire.contains_key(&(*from, node, *part))) {
                for (from, part, _) in &batch.receives {
                    let heard = wire.remove(&(*from, node, *part)).unwrap();
                    known[node].extend(heard);
                }
                rest.pop_front();
            }
        }
    }
    known
}

#[test]
fn barriers_and_small_reductions_take_few_messages() {
    for nodes in 2..=64_usize {
        let bound = rounds::count(nodes) as usize + 1;
        for (kind, count) in [(Kind::Barrier, 0), (Kind::AllReduce, 256)] {
            let operation = operation_of::<f32>(kind, 0, ReduceOp::Sum, count);
            for node in 0..nodes {
                let steps = steps_of(&operation, nodes, node);
                let sends = steps
                    .iter()
                    .filter(|step| matches!(step, Step::Send { .. }));
                assert!(sends.count() <= bound, "{kind:?} over {nodes}");
            }
        }
    }
}

#[test]
fn no_node_talks_with_many_at_a_time() {
    for nodes in [5, 8, 13, 16, 33] {
        for operation in all_operations() {
            for node in 0..nodes {
                let is_root = node == 0;
                for batch in batches(steps_of(&operation, nodes, node).into_iter()) {
                    let partners: BTreeSet<_> = batch.sends.iter().map(|(to, ..)| *to).collect();
                    let bound = rounds::count(nodes) as usize;
                    assert!(
                        is_root || partners.len() <= bound,
                        "{operation:?} over {nodes}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_root_of_a_large_broadcast_sends_less_than_twice_the_buffer() {
    for nodes in [3, 8, 13, 16] {
        let operation = operation_of::<u8>(Kind::Broadcast, 0, ReduceOp::Sum, 1 << 20);
        let sent: usize = steps_of(&operation, nodes, 0)
            .iter()
            .map(|step| match step {
                Step::Send { from, .. } => from.bytes.len(),
                _ => 0,
            })
            .sum();
        assert!(sent < 2 << 20, "{sent} bytes over {nodes}");
    }
}

/// The messages of a node, by batch: receivers and parts of those it sends, senders and parts of those it receives.
type Messages = Vec<[Vec<(usize, u32)>; 2]>;

fn messages_of(operation: &Operation, nodes: usize, node: usize) -> Messages {
    let all = batches(steps_of(operation, nodes, node).into_iter()).into_iter();
    let all = all.map(|batch| {
        [batch.sends, batch.receives].map(|all| {
            let parts = all.into_iter().map(|(peer, part, _)| (peer, part));
            parts.collect::<Vec<_>>()
        })
    });
    all.filter(|[sends, receives]| !sends.is_empty() || !receives.is_empty())
        .collect()
}

/// Runs nodes that make different calls. Returns true if one gets another's call before any ends.
fn is_found(nodes: &[(usize, &Messages)]) -> bool {
    let mut wire = BTreeSet::new();
    let mut next = vec![0; nodes.len()];
    let mut moved = true;
    while std::mem::take(&mut moved) {
        for (node, (call, batches)) in nodes.iter().enumerate() {
            while let Some([sends, receives]) = batches.get(next[node]) {
                for (to, part) in sends {
                    moved |= wire.insert((node, *to, *part));
                }
                let come: Vec<_> = receives
                    .iter()
                    .filter(|(from, part)| wire.contains(&(*from, node, *part)))
                    .collect();
                let mut come_calls = come.iter().filter(|(_, part)| *part < AFTER_CALL);
                if come_calls.any(|(from, _)| nodes[*from].0 != *call) {
                    let mut rests = next.iter().zip(nodes);
                    return rests.all(|(next, (_, batches))| *next < batches.len());
                }
                if come.len() < receives.len() {
                    break;
                }
                next[node] += 1;
                moved = true;
            }
        }
    }
    false
}

#[test]
fn a_node_that_makes_another_call_is_found() {
    for nodes in [2, 3, 4, 5, 8] {
        let roots = [0, 1].into_iter();
        let calls = roots.flat_map(|root| {
            let counts = [1, 700, 9_000].into_iter();
            counts.flat_map(move |count| {
                KINDS.map(|kind| operation_of::<f32>(kind, root, ReduceOp::Sum, count))
            })
        });
        let calls: Vec<_> = calls
            .map(|call| {
                let each = (0..nodes).map(|node| messages_of(&call, nodes, node));
                (call, each.collect::<Vec<_>>())
            })
            .collect();
        for (usual, (call, others)) in calls.iter().enumerate() {
            for (odd, (another, its)) in calls.iter().enumerate().filter(|(odd, _)| *odd != usual) {
                for differs in 0..nodes {
                    let made = |node| match node {
                        odd_node if odd_node == differs => (odd, &its[node]),
                        _ => (usual, &others[node]),
                    };
                    let made: Vec<_> = (0..nodes).map(made).collect();
                    assert!(
                        is_found(&made),
                        "{another:?} on {differs} of {nodes}, {call:?} elsewhere"
                    );
                }
            }
        }
    }
}
