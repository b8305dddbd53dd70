//! Jobs that encrypt, and processes that don't agree on it.

use super::*;
use crate::net::tls::Tls;

fn member() -> Tls {
    Tls::of_tests("member", "ca")
}

#[test]
fn processes_with_certificates_find_one_another() {
    for count in [1, 2, 4] {
        let (listener, master) = master();
        let joined = thread::scope(|scope| {
            let start = |number| {
                let config = process(number, count, &master).with_tls(member());
                spawn(
                    scope,
                    match number {
                        0 => config.with_listener(listener.try_clone().unwrap()),
                        _ => config,
                    },
                )
            };
            let joining: Vec<_> = (0..count).map(start).collect();
            let joined = joining.into_iter().map(|joining| joining.join().unwrap());
            joined.collect::<Result<Vec<_>>>().unwrap()
        });
        check(&joined);
    }
}

/// Returns the failures of processes 1 and 0. Process 0 has almost no time.
fn disagree(first: Option<Tls>, second: Option<Tls>) -> [JoinFailure; 2] {
    let (listener, master) = master();
    let with = |config: JobConfig, tls| match tls {
        Some(tls) => config.with_tls(tls),
        None => config,
    };
    thread::scope(|scope| {
        let config = with(process(0, 2, &master).with_listener(listener), first);
        let host = spawn(scope, config.with_join_timeout(Duration::from_secs(2)));
        let start = Instant::now();
        let told = failure(join(&with(process(1, 2, &master), second), 1));
        // It has 20 s to join, and needs none of them to see that it can't.
        assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
        [told, failure(host.join().unwrap())]
    })
}

#[test]
fn a_process_that_can_not_join_says_why_at_once() {
    // A certificate of its own that is wrong is found before: here it is the other that seems wrong.
    let trusts_others = || Some(Tls::of_tests("stranger", "other-ca"));
    for (first, second, words) in [
        (
            Some(member()),
            None,
            "the other side uses TLS, this process",
        ),
        (
            None,
            Some(member()),
            "this process uses TLS, the other does",
        ),
        (
            Some(member()),
            trusts_others(),
            "was not signed by the job's CA",
        ),
    ] {
        let [told, host] = disagree(first, second);
        let JoinFailure::Rejected(told) = told else {
            panic!("{told}");
        };
        assert!(told.contains(words), "{told}");
        // Process 0 waits for others, and knows that somebody was turned away.
        let JoinFailure::Missing { turned_away, .. } = host else {
            panic!("{host}");
        };
        assert_eq!(turned_away, 1);
    }
}
