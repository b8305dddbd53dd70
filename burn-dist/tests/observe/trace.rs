//! The trace of two ranks that train: who did what inside of what.
//!
//! Other tests of this program leave operations of their groups in it too, as any library would.

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::InMemDataset;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::SgdConfig;
use burn::tensor::{Device, Tensor};
use burn_dist::data::ShardedLoaderConfig;
use burn_dist::ddp::DdpConfig;
use burn_dist::launch::{Launcher, Worker};
use burn_dist::observe::{self, ChromeTrace};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex};
use std::time::Duration;
use tracing::{Subscriber, span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

const RANKS: usize = 2;
const STEPS: usize = 4;

/// Far more than anything here takes.
const DEADLINE: Duration = Duration::from_mins(2);

/// Number of buckets that each rank has begun to average.
#[derive(Default)]
struct Begun {
    buckets: Mutex<[usize; RANKS]>,
    more: Condvar,
}

static BEGUN: Begun = Begun {
    buckets: Mutex::new([0; RANKS]),
    more: Condvar::new(),
};

impl Begun {
    fn count(&self, rank: usize) -> usize {
        self.buckets.lock().unwrap()[rank]
    }

    fn wait_for_more_than(&self, count: usize, rank: usize) {
        let buckets = self.buckets.lock().unwrap();
        let more = |buckets: &mut [usize; RANKS]| buckets[rank] <= count;
        let waited = self.more.wait_timeout_while(buckets, DEADLINE, more);
        let timed_out = waited.unwrap().1.timed_out();
        assert!(!timed_out, "no bucket began before synchronize");
    }
}

/// Counts buckets, after the layers below it have seen them.
struct Counter;

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Counter {
    fn on_enter(&self, id: &span::Id, context: Context<'_, S>) {
        let bucket = context.span(id).is_some_and(|span| span.name() == "bucket");
        let thread = std::thread::current();
        let rank = thread
            .name()
            .and_then(|name| name.strip_prefix("burn-dist-reducer-"));
        if let (true, Some(rank)) = (bucket, rank) {
            BEGUN.buckets.lock().unwrap()[rank.parse::<usize>().unwrap()] += 1;
            BEGUN.more.notify_all();
        }
    }
}

#[derive(Module, Debug)]
struct Model {
    first: Linear,
    second: Linear,
}

struct Rows;

impl Batcher<f32, Tensor<2>> for Rows {
    fn batch(&self, items: Vec<f32>, device: &Device) -> Tensor<2> {
        let rows = items.len();
        Tensor::<1>::from_floats(&items[..], device).reshape([rows, 1])
    }
}

fn train(worker: &Worker) -> Result<(), burn_dist::Error> {
    let (rank, device) = (worker.rank(), worker.device());
    let loader = ShardedLoaderConfig::new()
        .with_batch_size(Some(2))
        .with_num_workers(1)
        .init_shard(
            (rank, worker.world_size()),
            device,
            Rows,
            InMemDataset::new(vec![1.0_f32; 2 * RANKS * STEPS]),
        )?;
    // Every parameter is a bucket of its own.
    let config = DdpConfig::new()
        .with_first_bucket_mb(1e-6)
        .with_bucket_cap_mb(1e-6);
    let ddp = config.init(worker.group())?;
    let layer = |inputs| LinearConfig::new(inputs, 4).init(device);
    let mut model = ddp.attach(Model {
        first: layer(1),
        second: layer(4),
    })?;
    let mut optimizer = SgdConfig::new().init();
    for (step, batch) in loader.batches().enumerate() {
        let batch = batch?.batch;
        let loss = observe::forward(|| {
            let hidden = model.first.forward(batch);
            model.second.forward(hidden).mean()
        });
        let begun = BEGUN.count(rank);
        let gradients = observe::backward(|| {
            let gradients = loss.backward();
            if step > 0 {
                // Buckets are averaged though nobody has called `synchronize`. (How far they overlap with
                // the pass itself depends on the machine.)
                BEGUN.wait_for_more_than(begun, rank);
            }
            gradients
        });
        let gradients = ddp.synchronize(gradients, &model)?;
        model = observe::optimizer(|| optimizer.step(0.1, model, gradients));
    }
    Ok(())
}

/// A span in the trace.
#[derive(Clone, Debug)]
struct Span {
    name: String,
    process: u64,
    thread: u64,
    begin: f64,
    end: f64,
    arguments: Value,
}

impl Span {
    fn is_in(&self, outer: &Self) -> bool {
        self.process == outer.process && self.begin >= outer.begin && self.end <= outer.end
    }
}

/// A trace, read back.
#[derive(Default)]
struct Trace {
    /// In the order of their beginnings.
    spans: Vec<Span>,
    /// Names, by process and thread.
    threads: BTreeMap<(u64, u64), String>,
    processes: BTreeMap<u64, String>,
}

fn read(text: &str) -> Trace {
    let events: Vec<Value> = serde_json::from_str(text).unwrap();
    let mut open = BTreeMap::<_, Vec<usize>>::new();
    let Trace {
        mut spans,
        mut threads,
        mut processes,
    } = Trace::default();
    for event in &events {
        let number = |key: &str| event[key].as_u64().unwrap();
        let (process, thread) = (number("pid"), number("tid"));
        let track = open.entry((process, thread)).or_default();
        let name = event["args"]["name"].as_str().map(str::to_owned);
        match (event["ph"].as_str().unwrap(), event["name"].as_str()) {
            ("B", Some(name)) => {
                track.push(spans.len());
                spans.push(Span {
                    name: name.to_owned(),
                    process,
                    thread,
                    begin: event["ts"].as_f64().unwrap(),
                    end: f64::INFINITY,
                    arguments: event["args"].clone(),
                });
            }
            ("E", None) => {
                // Every end has a beginning, and is not before it.
                let span = &mut spans[track.pop().unwrap()];
                span.end = event["ts"].as_f64().unwrap();
                assert!(span.end >= span.begin, "{span:?}");
            }
            ("M", Some("thread_name")) => {
                threads.insert((process, thread), name.unwrap());
            }
            ("M", Some("process_name")) => {
                processes.insert(process, name.unwrap());
            }
            ("M", Some("thread_sort_index" | "process_sort_index")) => {}
            other => unreachable!("{other:?}"),
        }
    }
    Trace {
        spans,
        threads,
        processes,
    }
}

#[test]
fn communication_is_seen_inside_backward_on_a_track_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    let mut trace = ChromeTrace::new();
    let layers = tracing_subscriber::registry()
        .with(trace.layer())
        .with(Counter);
    tracing::subscriber::set_global_default(layers).unwrap();
    trace.start(&path, 0).unwrap();
    Launcher::new(vec![Device::flex().autodiff(); RANKS])
        .with_timeout(DEADLINE)
        .run(|worker| train(&worker))
        .unwrap();
    trace.finish().unwrap();

    let Trace {
        spans,
        threads,
        processes,
    } = read(&std::fs::read_to_string(path).unwrap());
    for rank in 0..RANKS {
        let process = rank as u64 + 1;
        assert_eq!(processes[&process], format!("rank {rank}"));
        let named = |name: &str| -> Vec<&Span> {
            let own = spans.iter().filter(|span| span.process == process);
            own.filter(|span| span.name == name).collect()
        };
        let on = |span: &Span, thread: &str| {
            threads[&(process, span.thread)].starts_with(&format!("{thread}-{rank}"))
        };
        // What each thread does, and how often.
        for (name, thread, count) in [
            ("rank", "burn-dist-rank", 1),
            ("forward", "burn-dist-rank", STEPS),
            ("backward", "burn-dist-rank", STEPS),
            ("synchronize", "burn-dist-rank", STEPS),
            ("unpack", "burn-dist-rank", STEPS),
            ("optimizer", "burn-dist-rank", STEPS),
            // One for each parameter, and one for what is known of their use.
            ("bucket", "burn-dist-reducer", 5 * STEPS),
            ("pack", "burn-dist-reducer", 4 * STEPS),
            ("make batch", "data", STEPS),
        ] {
            let found = named(name);
            assert_eq!(found.len(), count, "{name} of rank {rank}");
            for span in found {
                assert!(on(span, thread) && span.end.is_finite(), "{span:?}");
            }
        }
        // The order within a step.
        for name in ["wait", "unpack"] {
            let (inner, outer) = (named(name), named("synchronize"));
            assert!(
                inner
                    .iter()
                    .zip(outer)
                    .all(|(inner, outer)| inner.is_in(outer))
            );
        }
        let (backward, buckets) = (named("backward"), named("bucket"));
        for pass in &backward[1..] {
            let inside = buckets.iter().filter(|bucket| {
                bucket.thread != pass.thread
                    && bucket.begin >= pass.begin
                    && bucket.begin <= pass.end
            });
            assert!(inside.count() > 0, "rank {rank}: {pass:?} in\n{buckets:?}");
        }
        // The first step only watches.
        assert!(buckets.iter().all(|bucket| bucket.begin >= backward[0].end));
        for bucket in buckets {
            assert!(
                bucket.arguments["bytes"].as_u64().unwrap() >= 16,
                "{bucket:?}"
            );
            let operations = named("collective");
            let inside = operations
                .iter()
                .filter(|operation| operation.is_in(bucket));
            let waits = named("wait for ranks");
            for operation in inside {
                assert!(
                    waits.iter().any(|wait| wait.is_in(operation)),
                    "{operation:?}"
                );
            }
        }
    }
}
