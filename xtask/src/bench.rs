//! `cargo xtask bench`: times burn-dist, beside its peers where they are asked for, and shows a table.
//!
//! Imports point one way: `bench` > `rounds`, `plot` > `table` > `rows`, `peers` > `programs` > `line`, `run`
//! > `launch`, `cargo`.

mod line;
mod peers;
mod plot;
mod programs;
mod rounds;
mod rows;
mod run;
mod table;

use crate::error::Error;
use clap::{Args, value_parser};
use line::Layout;
use peers::{Kind, Peer};
use programs::{Bench, Programs, Setting};
use rounds::Field;
use rows::{Row, Samples};
use run::Halt;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Up to this, a tensor of every rank fits into the memory of a small machine.
const LARGEST: u64 = 1 << 30;

/// Flags of `cargo xtask bench`.
#[derive(Args, Clone, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct Arguments {
    /// Bench to run [default: all]
    #[arg(value_enum)]
    bench: Option<Bench>,

    /// Layout of the ranks [default: both]
    #[arg(long, value_enum)]
    layout: Option<Layout>,

    /// Numbers of ranks [default: 2,4,8; for loader 2; for growth 2,4,8,16,32,64; for broadcast 16; for launch 64]
    #[arg(long, alias = "processes", value_name = "N,...", value_delimiter = ',', value_parser = value_parser!(u32).range(1..=256))]
    ranks: Vec<u32>,

    /// Sizes for all-reduce, growth and broadcast in bytes, multiples of 4 [default: 1 KiB, 64 KiB, 1, 4, 16 and
    /// 64 MiB; for growth the first three, for broadcast the last]
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',', value_parser = size)]
    sizes: Vec<u64>,

    /// Run also those peers that are installed, in turn with ours
    #[arg(long)]
    peers: bool,

    /// Python that has PyTorch [default: python3 on the PATH, else /usr/bin/python3]
    #[arg(long, value_name = "FILE", requires = "peers")]
    python: Option<PathBuf>,

    /// Runs of each program; medians of the rounds count [default: 5 for all-reduce, ddp-step and launch, 3 for growth
    /// and broadcast, else 1]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,

    /// Seconds that each size takes in a round, about
    #[arg(long, value_name = "SECONDS", default_value_t = 0.3, value_parser = seconds)]
    budget: f64,

    /// Seconds after which a program that has not ended its round is ended
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = value_parser!(u64).range(1..=86400))]
    deadline: u64,

    /// Write the rows to a file, as JSON [default: not written]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Draw the rows into a file, as SVG [default: not drawn]
    #[arg(long, value_name = "FILE.svg", value_parser = svg)]
    plot: Option<PathBuf>,
}

const ABOUT: &str = "\
The ratio is the peer's time divided by ours: above 1, ours is ahead.

Peers, each of which needs something on this machine; who is missing is named and left out:
  burn-collective 0.21           cargo, which builds it (minutes, the first time)
  OpenMPI, shared memory or TCP  mpicc and mpirun
  PyTorch, Gloo or DDP           Python with torch
  two raw TCP streams            nothing

A program that fails or takes too long is named, and the others go on. The exit code is 1 when that
happened to one of ours.";

fn size(text: &str) -> Result<u64, String> {
    let bytes: u64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if bytes.is_multiple_of(4) && (4..=LARGEST).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(format!("not a multiple of 4 from 4 to {LARGEST}"))
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.001..=3600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("not from 0.001 to 3600".to_owned())
    }
}

fn svg(text: &str) -> Result<PathBuf, String> {
    let file = PathBuf::from(text);
    if file.extension().is_some_and(|extension| extension == "svg") {
        Ok(file)
    } else {
        Err("not a name that ends with .svg".to_owned())
    }
}

/// Times what is wanted, prints a table for each bench, and writes the files.
///
/// # Errors
///
/// When the arguments don't go together, a file can't be written, or a program can't be started.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Error> {
    arguments.check()?;
    match arguments.time() {
        Ok(code) | Err(Halt::Ended(code)) => Ok(code),
        Err(Halt::Failed(error)) => Err(error),
    }
}

impl Arguments {
    /// Refuses flags that the bench would ignore, and files that could not be written at the end.
    fn check(&self) -> Result<(), Error> {
        if let Some(bench) = self.bench {
            let no = |what| Error::Usage(format!("{} has no {what}", bench.name()));
            if !bench.has_sizes() && !self.sizes.is_empty() {
                return Err(no("--sizes"));
            }
            if self.places(bench).is_empty() {
                return Err(no("ranks of this --layout"));
            }
        }
        for file in [&self.json, &self.plot].into_iter().flatten() {
            let open = OpenOptions::new().create(true).append(true).open(file);
            open.map_err(|cause| Error::write(file)(cause))?;
        }
        Ok(())
    }

    fn time(&self) -> Result<ExitCode, Halt> {
        let benches = self.benches();
        let programs = Programs::build(&benches)?;
        let (peers, mut troubles) = self.prepare_peers()?;
        let field = Field {
            programs: &programs,
            peers: &peers,
            limit: Duration::from_secs(self.deadline),
        };
        let (mut rows, mut all_well): (Vec<Row>, _) = (Vec::new(), true);
        for bench in benches {
            let sizes = self.sizes(bench);
            let mut samples = Samples::default();
            let rounds = self.rounds.unwrap_or(bench.rounds());
            for (layout, ranks) in self.places(bench) {
                let setting = Setting {
                    bench,
                    layout,
                    ranks,
                    sizes: &sizes,
                    budget: self.budget,
                };
                all_well &= field.time(&setting, rounds, &mut samples, &mut troubles)?;
            }
            let measured = samples.rows();
            print!("{}", table::table(&measured));
            rows.extend(measured);
        }
        self.write(&rows)?;
        for trouble in troubles {
            println!("\nnote: {trouble}");
        }
        Ok(if all_well {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn benches(&self) -> Vec<Bench> {
        use clap::ValueEnum;
        match self.bench {
            Some(bench) => vec![bench],
            None => Bench::value_variants().to_vec(),
        }
    }

    fn sizes(&self, bench: Bench) -> Vec<u64> {
        if self.sizes.is_empty() {
            return bench.sizes().to_vec();
        }
        let mut sizes = self.sizes.clone();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// Layouts and numbers of ranks of a bench.
    fn places(&self, bench: Bench) -> Vec<(Layout, u32)> {
        let mut ranks = self.ranks.clone();
        if ranks.is_empty() {
            ranks = bench.ranks().to_vec();
        }
        ranks.sort_unstable();
        ranks.dedup();
        let wanted = |layout: &Layout| self.layout.is_none_or(|only| only == *layout);
        let layouts = bench.layouts().iter().copied().filter(wanted);
        let place = |layout| ranks.iter().map(move |&ranks| (layout, ranks));
        layouts.flat_map(place).collect()
    }

    /// The peers that have something to do and are there, and why the others are not.
    fn prepare_peers(&self) -> Result<(Vec<Peer>, Vec<String>), Halt> {
        let (mut ready, mut missing) = (Vec::new(), Vec::new());
        for kind in Kind::ALL {
            let serves = |bench: &Bench| {
                let mut places = self.places(*bench).into_iter();
                places.any(|(layout, ranks)| kind.serves(*bench, layout, ranks))
            };
            let Some(bench) = self.benches().into_iter().find(serves) else {
                continue;
            };
            if !self.peers {
                continue;
            }
            match Peer::prepare(kind, self.python.as_deref())? {
                Ok(peer) => ready.push(peer),
                Err(reason) => {
                    let reason = format!("{} is left out: {reason}", kind.name(bench));
                    eprintln!("{reason}");
                    missing.push(reason);
                }
            }
        }
        Ok((ready, missing))
    }

    fn write(&self, rows: &[Row]) -> Result<(), Error> {
        let save = |file: &Path, text: String| fs::write(file, text).map_err(Error::write(file));
        if let Some(file) = &self.json {
            let rows: Vec<_> = rows.iter().map(Row::json).collect();
            save(file, format!("{:#}\n", serde_json::Value::from(rows)))?;
        }
        if let Some(file) = &self.plot {
            save(file, plot::svg(rows)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
