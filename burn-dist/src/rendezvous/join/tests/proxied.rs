//! Joining through proxies that pass bytes in pieces, late, or not at all.

use super::*;
use crate::net::proxy::{Proxy, Weather};
use crate::seeds::try_seeds;

/// Three processes join, the others through proxies to process 0's store.
fn join_through(seed: u64) -> Result<bool, String> {
    const PATIENCE: Duration = Duration::from_secs(4);
    let harmful = seed % 2 == 1;
    let (listener, master) = master();
    let store = master.parse().unwrap();
    let weathers = [1, 2].map(|number: u64| {
        Weather::from_seed(
            seed * 10 + number,
            harmful && seed / 2 % 2 + 1 == number,
            700,
        )
    });
    let proxies = weathers.map(|weather| Proxy::new(store, weather));
    let started = Instant::now();
    let joined: Vec<_> = thread::scope(|scope| {
        let first = process(0, 3, &master).with_listener(listener);
        let others = [1, 2].map(|number| {
            let master = proxies[number - 1].address.to_string();
            process(number, 3, &master)
        });
        let [second, third] = others;
        let joining = [first, second, third].map(|config| {
            spawn(
                scope,
                config
                    .with_join_timeout(PATIENCE)
                    .with_secret(Secret::new(b"x")),
            )
        });
        joining.map(|thread| thread.join().unwrap()).into()
    });
    let took = started.elapsed();
    let errors: Vec<_> = joined.iter().filter_map(|one| one.as_ref().err()).collect();
    let story = format!("{}; {}; {took:?}: {errors:?}", weathers[0], weathers[1]);
    if took > PATIENCE + LATEST {
        return Err(format!("later than the deadline: {story}"));
    }
    if !harmful && !errors.is_empty() {
        return Err(format!("a failure without a fault: {story}"));
    }
    if errors.is_empty() {
        check(&joined.into_iter().map(Result::unwrap).collect::<Vec<_>>());
        return Ok(true);
    }
    Ok(false)
}

/// Longest time after its deadline until a process gives up a store that stands still: the time for an answer of the
/// store, and the time that process 0 waits for the others.
const LATEST: Duration = Duration::from_secs(14);

#[test]
fn short_pieces_cuts_and_standstills_end_in_a_job_or_in_an_error() {
    let Some(came_through) = try_seeds(160, 32, join_through) else {
        return;
    };
    assert!((80..150).contains(&came_through), "{came_through} of 160");
}
