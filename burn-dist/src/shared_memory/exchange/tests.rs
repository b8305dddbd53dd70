//! An exchange by itself. Sizes are small, so that Miri can run these.

use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

fn later() -> Instant {
    Instant::now() + Duration::from_mins(5)
}

/// Runs `work` as every rank, each on its own thread.
fn on_ranks<R: Send>(ranks: usize, work: impl Fn(usize) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..ranks)
            .map(|rank| scope.spawn(move || work(rank)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

#[test]
fn every_rank_reads_what_the_others_lent() {
    let exchange = SharedExchange::new(3);
    let seen = on_ranks(3, |rank| {
        let mine = vec![rank as u8; rank + 1];
        exchange.run(
            rank,
            LentBuffer::Read(&mine),
            later(),
            || (),
            |floor| {
                (0..3)
                    .map(|peer| floor.read(peer).to_vec())
                    .collect::<Vec<_>>()
            },
        )
    });
    for seen in seen {
        assert_eq!(seen.unwrap(), [vec![0], vec![1, 1], vec![2, 2, 2]]);
    }
}

#[test]
fn work_in_place_covers_every_byte_of_every_slice_once() {
    for length in [0, 1, 63, 64, 65, 200, 300] {
        let exchange = SharedExchange::new(3);
        let results = on_ranks(3, |rank| {
            let mut mine = vec![0_u8; length];
            let outcome = exchange.run(
                rank,
                LentBuffer::InPlace(&mut mine),
                later(),
                || (),
                |floor| {
                    for piece in floor.segments() {
                        if let Segment::InPlace(bytes) = piece {
                            for byte in bytes.iter_mut() {
                                *byte += 1;
                            }
                        }
                    }
                },
            );
            outcome.map(|()| mine)
        });
        for mine in results {
            assert_eq!(mine.unwrap(), vec![1; length]);
        }
    }
}

#[test]
fn a_slice_to_write_may_be_lent_beside_one_to_read() {
    for length in [0, 1, 64, 200] {
        let exchange = SharedExchange::new(3);
        let results = on_ranks(3, |rank| {
            let mine = vec![rank as u8 + 1; length];
            let mut output = vec![0_u8; if rank == 1 { length } else { 0 }];
            let lent = match rank {
                1 => LentBuffer::Beside {
                    input: &mine,
                    output: &mut output,
                },
                _ => LentBuffer::Read(&mine),
            };
            let outcome = exchange.run(
                rank,
                lent,
                later(),
                || (),
                |floor| {
                    assert_eq!(floor.read(1), vec![2; length]);
                    let mut pieces = floor.segments();
                    for byte in 0..pieces[0].input().len() {
                        let sum = pieces.iter().map(|piece| piece.input()[byte]).sum::<u8>();
                        let outputs = pieces.iter_mut().filter_map(Segment::output);
                        outputs.for_each(|output| output[byte] += sum);
                    }
                },
            );
            outcome.map(|()| output)
        });
        let results: Vec<_> = results.into_iter().map(Result::unwrap).collect();
        assert_eq!(results, [vec![], vec![6; length], vec![]]);
    }
}

#[test]
fn a_closed_exchange_wakes_those_inside_and_refuses_those_outside() {
    let exchange = SharedExchange::new(2);
    let outcome = exchange.run(
        0,
        LentBuffer::Read(&[1]),
        Instant::now(),
        || {
            exchange.close();
        },
        |_| unreachable!("rank 1 never came"),
    );
    assert_eq!(outcome.map(|()| 0), Err(Missed::Closed));
    let late = exchange.run(1, LentBuffer::Read(&[2]), later(), || (), |_| ());
    assert_eq!(late, Err(Missed::Closed));
}

#[test]
fn an_exchange_that_is_ready_stays_ready() {
    let exchange = SharedExchange::new(1);
    let outcome = exchange.run(
        0,
        LentBuffer::Read(&[7]),
        later(),
        || (),
        |floor| {
            exchange.close();
            floor.read(0)[0]
        },
    );
    assert_eq!(outcome, Ok(7));
}

#[test]
fn a_panic_in_one_share_lets_the_others_out_and_tells_them() {
    let exchange = SharedExchange::new(3);
    let outcomes = on_ranks(3, |rank| {
        catch_unwind(AssertUnwindSafe(|| {
            let mut mine = [0_u8; 8];
            exchange.run(
                rank,
                LentBuffer::InPlace(&mut mine),
                later(),
                || (),
                |_| {
                    assert_ne!(rank, 1, "the share of rank 1 fails");
                },
            )
        }))
    });
    assert_eq!(*outcomes[0].as_ref().unwrap(), Err(Missed::Broken(1)));
    assert!(outcomes[1].is_err());
    assert_eq!(*outcomes[2].as_ref().unwrap(), Err(Missed::Broken(1)));
}

#[test]
fn a_panic_while_waiting_withdraws_the_loan() {
    let exchange = SharedExchange::new(2);
    let first = catch_unwind(AssertUnwindSafe(|| {
        let mine = vec![1_u8; 4];
        exchange.run(
            0,
            LentBuffer::Read(&mine),
            Instant::now(),
            || panic!("given up"),
            |_| (),
        )
    }));
    assert!(first.is_err());
    let second = exchange.run(1, LentBuffer::Read(&[]), later(), || (), |_| ());
    assert_eq!(second, Err(Missed::Closed));
}

/// Adds up the first bytes of all segments into what a rank may write.
fn add(buffers: PeerBuffers<'_>) {
    let mut segments = buffers.segments();
    for byte in 0..segments[0].input().len() {
        let sum = segments.iter().map(|segment| segment.input()[byte]).sum();
        for output in segments.iter_mut().filter_map(Segment::output) {
            output[byte] = sum;
        }
    }
}

#[test]
fn small_buffers_are_combined_from_copies() {
    for length in [0, 1, 64, 100] {
        let exchange = SharedExchange::new(3);
        let results = on_ranks(3, |rank| {
            let mut mine = vec![1 << rank; length];
            let lent = LentBuffer::combined(&mut mine, 3);
            assert!(matches!(lent, LentBuffer::Copied(_)));
            let outcome = exchange.run(rank, lent, later(), || (), add);
            outcome.map(|()| mine)
        });
        for mine in results {
            assert_eq!(mine.unwrap(), vec![7; length]);
        }
    }
    for (bytes, ranks) in [(MAX_COPIED + 1, 2), (MAX_COPIED, 6)] {
        let mut large = vec![0; bytes];
        let lent = LentBuffer::combined(&mut large, ranks);
        assert!(matches!(lent, LentBuffer::InPlace(_)));
    }
}

#[test]
fn a_rank_whose_buffer_was_copied_waits_for_no_share() {
    let exchange = SharedExchange::new(2);
    let (left, has_left) = std::sync::mpsc::channel();
    let (left, has_left) = (Mutex::new(left), Mutex::new(has_left));
    let outcomes = on_ranks(2, |rank| {
        let mut mine = [rank as u8; 8];
        let lent = LentBuffer::Copied(&mut mine);
        if rank == 0 {
            let outcome = exchange.run(rank, lent, later(), || (), |_| true);
            left.lock().send(()).unwrap();
            outcome
        } else {
            let minute = Duration::from_mins(1);
            let share = |_: PeerBuffers<'_>| has_left.lock().recv_timeout(minute).is_ok();
            exchange.run(rank, lent, later(), || (), share)
        }
    });
    assert_eq!(outcomes, [Ok(true), Ok(true)]);
}

#[test]
fn copies_and_loans_are_not_mixed() {
    let exchange = SharedExchange::new(2);
    let outcomes = on_ranks(2, |rank| {
        let mut mine = [rank as u8; 8];
        let lent = match rank {
            0 => LentBuffer::Copied(&mut mine),
            _ => LentBuffer::InPlace(&mut mine),
        };
        exchange.run(rank, lent, later(), || (), |_| ())
    });
    assert_eq!(outcomes, [Err(Missed::Closed), Err(Missed::Closed)]);
}

#[test]
fn a_renewed_exchange_knows_nothing_of_the_operation_before() {
    let mut exchange = SharedExchange::new(2);
    for turn in 0..6 {
        let results = on_ranks(2, |rank| {
            let mut mine = vec![turn + rank as u8; 4];
            let lent = match turn % 2 {
                0 => LentBuffer::Copied(&mut mine),
                _ => LentBuffer::InPlace(&mut mine),
            };
            let outcome = exchange.run(rank, lent, later(), || (), add);
            outcome.map(|()| mine)
        });
        for mine in results {
            assert_eq!(mine.unwrap(), vec![2 * turn + 1; 4]);
        }
        exchange.renew();
        // Who was there before has not come.
        let alone = exchange.run(
            0,
            LentBuffer::Read(&[1]),
            Instant::now(),
            || {
                exchange.close();
            },
            |_| (),
        );
        assert_eq!(alone, Err(Missed::Closed));
        exchange.renew();
    }
}

#[test]
fn sleeping_ranks_are_woken_in_every_phase() {
    let rounds = if cfg!(miri) { 2 } else { 50 };
    for round in 0..rounds {
        let exchange = SharedExchange::new(3);
        // Longer than anybody watches, of one rank after the other, before it comes and within its share.
        let dawdle = |rank: usize, phase: usize| {
            if (round + phase) % 3 == rank {
                std::thread::sleep(Duration::from_micros(200));
            }
        };
        let outcomes = on_ranks(3, |rank| {
            dawdle(rank, 0);
            let mine = [rank as u8];
            let lent = LentBuffer::Read(&mine);
            exchange.run(rank, lent, later(), || (), |_| dawdle(rank, 1))
        });
        assert_eq!(outcomes, [Ok(()), Ok(()), Ok(())]);
    }
}
