//! Random programs of calls on a group, each compared with a reference that one thread computes.

use burn_dist::{AnyRank, P2p, ProcessGroup, Uneven};

use super::{OPS, Random, Reference, all_values, assert_same, reduced, values};

/// A call whose result is still to come.
type Pending = Box<dyn FnOnce()>;

/// Runs `steps` calls that the seed chooses: their kinds, lengths, roots, reductions and forms. All ranks choose
/// alike. Results of started calls are waited for later, in any order.
pub(crate) fn check_program<T: Reference>(group: &ProcessGroup, seed: u64, steps: usize) {
    let mut random = Random(seed);
    let mut pending: Vec<Pending> = Vec::new();
    for step in 0..steps {
        let call = Chosen {
            group,
            what: format!("step {step} of program {seed} on rank {}", group.rank()),
            seed: random.next(),
            length: [0, 1, 2, 7, 65, 300][random.below(6)],
            root: random.below(group.world_size()),
            form: random.below(3),
        };
        let later = match random.below(11) {
            0 => call.all_reduce::<T>(),
            1 => call.reduce::<T>(),
            2 => call.broadcast::<T>(),
            3 => call.gather::<T>(),
            4 => call.all_gather::<T>(),
            5 => call.scatter::<T>(),
            6 => call.reduce_scatter::<T>(),
            7 => call.all_to_all::<T>(),
            8 => call.uneven::<T>(),
            9 => call.messages::<T>(),
            _ => call.objects(),
        };
        pending.extend(later);
        if random.below(3) == 0 && !pending.is_empty() {
            let chosen = random.below(pending.len());
            pending.swap_remove(chosen)();
        }
    }
    for wait in pending {
        wait();
    }
}

/// One call of a program.
struct Chosen<'g> {
    group: &'g ProcessGroup,
    what: String,
    seed: u64,
    length: usize,
    root: usize,
    /// Borrowed, owned or started.
    form: usize,
}

impl Chosen<'_> {
    fn at(&self) -> (usize, usize, bool) {
        let (rank, ranks) = (self.group.rank(), self.group.world_size());
        (rank, ranks, rank == self.root)
    }

    fn inputs<T: Reference>(&self, length: usize) -> Vec<Vec<T>> {
        all_values(self.seed, self.group.world_size(), length)
    }

    /// Compares the result of a call in its chosen form.
    fn check<T: Reference>(
        &self,
        name: &str,
        expected: Vec<T>,
        borrowed: impl FnOnce() -> Vec<T>,
        owned: impl FnOnce() -> Vec<T>,
        started: impl FnOnce() -> burn_dist::Work<Vec<T>>,
    ) -> Option<Pending> {
        let what = format!("{name} of {} at {}", self.length, self.what);
        match self.form {
            0 => assert_same(&borrowed(), &expected, &what),
            1 => assert_same(&owned(), &expected, &what),
            _ => {
                let work = started();
                return Some(Box::new(move || {
                    assert_same(&work.wait().unwrap(), &expected, &what);
                }));
            }
        }
        None
    }

    fn all_reduce<T: Reference>(&self) -> Option<Pending> {
        let (group, op) = (self.group, OPS[self.seed as usize % OPS.len()]);
        let inputs = self.inputs::<T>(self.length);
        let input = || inputs[group.rank()].clone();
        self.check(
            "all_reduce",
            reduced(&inputs, op),
            || {
                let mut buffer = input();
                group.all_reduce(&mut buffer, op).unwrap();
                buffer
            },
            || group.all_reduce(input(), op).unwrap(),
            || group.start().all_reduce(input(), op),
        )
    }

    fn reduce<T: Reference>(&self) -> Option<Pending> {
        let (group, op) = (self.group, OPS[self.seed as usize % OPS.len()]);
        let (rank, _, is_root) = self.at();
        let inputs = self.inputs::<T>(self.length);
        let input = || inputs[rank].clone();
        self.check(
            "reduce",
            if is_root {
                reduced(&inputs, op)
            } else {
                input()
            },
            || {
                let mut buffer = input();
                group.reduce(&mut buffer, op, self.root).unwrap();
                buffer
            },
            || group.reduce(input(), op, self.root).unwrap(),
            || group.start().reduce(input(), op, self.root),
        )
    }

    fn broadcast<T: Reference>(&self) -> Option<Pending> {
        let group = self.group;
        let inputs = self.inputs::<T>(self.length);
        let input = || inputs[group.rank()].clone();
        self.check(
            "broadcast",
            inputs[self.root].clone(),
            || {
                let mut buffer = input();
                group.broadcast(&mut buffer, self.root).unwrap();
                buffer
            },
            || group.broadcast(input(), self.root).unwrap(),
            || group.start().broadcast(input(), self.root),
        )
    }

    fn all_gather<T: Reference>(&self) -> Option<Pending> {
        let (group, (rank, ranks, _)) = (self.group, self.at());
        let inputs = self.inputs::<T>(self.length);
        self.check(
            "all_gather",
            inputs.concat(),
            || {
                let mut output = values(self.seed, 99, self.length * ranks);
                group.all_gather((&inputs[rank], &mut output)).unwrap();
                output
            },
            || group.all_gather(inputs[rank].clone()).unwrap(),
            || group.start().all_gather(inputs[rank].clone()),
        )
    }

    fn gather<T: Reference>(&self) -> Option<Pending> {
        let (group, (rank, ranks, is_root)) = (self.group, self.at());
        let inputs = self.inputs::<T>(self.length);
        let due = is_root.then(|| inputs.concat());
        let what = format!("gather of {} at {}", self.length, self.what);
        let same = move |found: Option<Vec<T>>| {
            assert_eq!(found.is_some(), due.is_some(), "{what}");
            assert_same(&found.unwrap_or_default(), &due.unwrap_or_default(), &what);
        };
        match self.form {
            0 => {
                let mut output = is_root.then(|| values(self.seed, 99, self.length * ranks));
                let pair = (&inputs[rank], output.as_deref_mut());
                group.gather(pair, self.root).unwrap();
                same(output);
            }
            1 => same(group.gather(inputs[rank].clone(), self.root).unwrap()),
            _ => {
                let work = group.start().gather(inputs[rank].clone(), self.root);
                return Some(Box::new(move || same(work.wait().unwrap())));
            }
        }
        None
    }

    fn scatter<T: Reference>(&self) -> Option<Pending> {
        let (group, (rank, ranks, is_root)) = (self.group, self.at());
        let inputs = self.inputs::<T>(self.length);
        let whole = || is_root.then(|| inputs.concat());
        self.check(
            "scatter",
            inputs[rank].clone(),
            || {
                let mut output = values(self.seed, ranks, self.length);
                let pair = (whole(), &mut output);
                group
                    .scatter((pair.0.as_deref(), pair.1), self.root)
                    .unwrap();
                output
            },
            || group.scatter((whole(), self.length), self.root).unwrap(),
            || group.start().scatter((whole(), self.length), self.root),
        )
    }

    fn reduce_scatter<T: Reference>(&self) -> Option<Pending> {
        let (group, op) = (self.group, OPS[self.seed as usize % OPS.len()]);
        let (rank, ranks, _) = self.at();
        let inputs = self.inputs::<T>(self.length * ranks);
        let part = rank * self.length..(rank + 1) * self.length;
        self.check(
            "reduce_scatter",
            reduced(&inputs, op)[part].to_vec(),
            || {
                let mut output = values(self.seed, 99, self.length);
                group
                    .reduce_scatter((&inputs[rank], &mut output), op)
                    .unwrap();
                output
            },
            || group.reduce_scatter(inputs[rank].clone(), op).unwrap(),
            || group.start().reduce_scatter(inputs[rank].clone(), op),
        )
    }

    fn all_to_all<T: Reference>(&self) -> Option<Pending> {
        let (group, (rank, ranks, _)) = (self.group, self.at());
        let inputs = self.inputs::<T>(self.length * ranks);
        let part = rank * self.length..(rank + 1) * self.length;
        let parts = inputs.iter().map(|all| all[part.clone()].to_vec());
        self.check(
            "all_to_all",
            parts.collect::<Vec<_>>().concat(),
            || {
                let mut output = values(self.seed, 99, self.length * ranks);
                group.all_to_all((&inputs[rank], &mut output)).unwrap();
                output
            },
            || group.all_to_all(inputs[rank].clone()).unwrap(),
            || group.start().all_to_all(inputs[rank].clone()),
        )
    }

    /// Parts of lengths that depend on sender and receiver; some are empty.
    fn uneven<T: Reference>(&self) -> Option<Pending> {
        let (group, (rank, ranks, is_root)) = (self.group, self.at());
        let (seed, root) = (self.seed, self.root);
        let part = |from: usize, to: usize| {
            let length = (self.length + from) * (to % 3);
            values::<T>(seed ^ to as u64, from, length)
        };
        let to = |to: usize| (0..ranks).map(|from| part(from, to)).collect::<Vec<_>>();
        let from = |from: usize| (0..ranks).map(|to| part(from, to)).collect::<Vec<_>>();
        let what = format!("unequal lengths at {}", self.what);
        let same = |found: &[Vec<T>], due: &[Vec<T>], call: &str| {
            assert_eq!(found.len(), due.len(), "{call} {what}");
            for (found, due) in found.iter().zip(due) {
                assert_same(found, due, &format!("{call} {what}"));
            }
        };
        let all = group.all_gather(Uneven(part(rank, 2))).unwrap();
        same(&all, &to(2), "all_gather");
        let work = group.start().all_to_all(Uneven(from(rank)));
        let gathered = group.gather(Uneven(part(rank, 1)), root).unwrap();
        assert_eq!(gathered.is_some(), is_root, "{what}");
        if let Some(gathered) = gathered {
            same(&gathered, &to(1), "gather");
        }
        let given = is_root.then(|| from(root));
        let got = group.scatter(Uneven(given), root).unwrap();
        same(&[got], &[part(root, rank)], "scatter");
        same(&work.wait().unwrap(), &to(rank), "all_to_all");
        None
    }

    /// Everybody sends to everybody, and the root receives from any rank.
    fn messages<T: Reference>(&self) -> Option<Pending> {
        let (group, (rank, ranks, is_root)) = (self.group, self.at());
        let inputs = self.inputs::<T>(self.length);
        let tag = self.seed;
        let like = || values::<T>(!self.seed, 99, self.length);
        let others = (0..ranks).filter(|&peer| peer != rank);
        let batch = others.clone().flat_map(|peer| {
            let send = P2p::Send(inputs[rank].clone(), peer, tag);
            let receive = P2p::Recv(like(), peer, tag);
            if rank % 2 == 0 {
                [send, receive]
            } else {
                [receive, send]
            }
        });
        let received = match self.form {
            0 => group.batch(batch).unwrap(),
            _ => group.start().batch(batch).wait().unwrap(),
        };
        for (peer, found) in others.clone().zip(received) {
            assert_same(&found, &inputs[peer], &format!("batch at {}", self.what));
        }
        if !is_root {
            group.send(&inputs[rank], self.root, !tag).unwrap();
            return None;
        }
        let mut senders = Vec::new();
        for _ in others {
            let (from, found) = match self.form {
                0 => {
                    let mut found = like();
                    let (from, ()) = group.recv(&mut found, AnyRank, !tag).unwrap();
                    (from, found)
                }
                1 => group.recv(like(), AnyRank, !tag).unwrap(),
                _ => group.start().recv(like(), AnyRank, !tag).wait().unwrap(),
            };
            assert_same(&found, &inputs[from], &format!("from any at {}", self.what));
            senders.push(from);
        }
        senders.sort_unstable();
        assert!(
            senders
                .iter()
                .copied()
                .eq((0..ranks).filter(|&peer| peer != rank))
        );
        None
    }

    fn objects(&self) -> Option<Pending> {
        let (objects, (rank, ranks, is_root)) = (self.group.objects(), self.at());
        let value = |rank: usize| {
            (
                format!("rank {rank}"),
                vec![self.seed; (self.length * rank) % 50],
            )
        };
        let all: Vec<_> = (0..ranks).map(value).collect();
        let mine = value(rank);
        assert_eq!(objects.all_gather(&mine).unwrap(), all, "{}", self.what);
        let given = is_root.then_some(&mine);
        assert_eq!(objects.broadcast(given, self.root).unwrap(), all[self.root]);
        let gathered = objects.gather(&mine, self.root).unwrap();
        assert_eq!(gathered, is_root.then(|| all.clone()));
        let given = is_root.then_some(&all[..]);
        assert_eq!(objects.scatter(given, self.root).unwrap(), mine);
        None
    }
}
