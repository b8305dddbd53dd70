//! The flags of batch sizes.

use crate::data::ShardedLoaderConfig;
use clap::Args;

/// Batch size of a rank or of a step: exactly one of the two is given. See
/// [batch sizes](crate::data#batch-sizes).
///
/// Without either, the loader's [`init`](ShardedLoaderConfig::init) is an error. A program gives one a default with clap's `mut_arg`:
/// `#[command(mut_arg("batch_size", |arg| arg.default_value("16")))]`.
#[derive(Args, Clone, Debug)]
pub struct BatchArgs {
    /// Samples of each replica in a step
    #[arg(long, value_name = "N", conflicts_with = "global_batch_size")]
    pub batch_size: Option<usize>,

    /// Samples of all replicas in a step, in place of --batch-size: runs of any number of replicas have the same
    /// steps
    #[arg(long, value_name = "N")]
    pub global_batch_size: Option<usize>,
}

impl BatchArgs {
    /// Returns the configuration of a loader with this batch size.
    pub fn loader(&self) -> ShardedLoaderConfig {
        ShardedLoaderConfig::new()
            .with_batch_size(self.batch_size.filter(|_| self.global_batch_size.is_none()))
            .with_global_batch_size(self.global_batch_size)
    }

    /// Returns the flags that all processes of a job, and a run and its continuation, must have alike.
    pub fn settings(&self) -> [(&'static str, String); 2] {
        let text = |size: Option<usize>| size.map_or("none".to_owned(), |size| size.to_string());
        let loader = self.loader();
        [
            ("--batch-size", text(loader.batch_size)),
            ("--global-batch-size", text(loader.global_batch_size)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Plain {
        #[command(flatten)]
        batch: BatchArgs,
    }

    #[derive(Parser)]
    #[command(mut_arg("batch_size", |arg| arg.default_value("16")))]
    struct WithDefault {
        #[command(flatten)]
        batch: BatchArgs,
    }

    #[test]
    fn exactly_one_size_is_given() {
        let plain = |flags: &[&str]| Plain::try_parse_from(["program"].iter().chain(flags));
        let none = plain(&[]).ok().unwrap().batch.loader();
        assert_eq!((none.batch_size, none.global_batch_size), (None, None));
        assert!(plain(&["--batch-size", "4", "--global-batch-size", "8"]).is_err());
        assert_eq!(
            plain(&["--batch-size", "4"])
                .ok()
                .unwrap()
                .batch
                .loader()
                .batch_size,
            Some(4)
        );
        let sizes = |flags: &[&str]| {
            let parsed = WithDefault::try_parse_from(["program"].iter().chain(flags));
            let loader = parsed.ok().unwrap().batch.loader();
            (loader.batch_size, loader.global_batch_size)
        };
        assert_eq!(sizes(&[]), (Some(16), None));
        assert_eq!(sizes(&["--global-batch-size", "8"]), (None, Some(8)));
    }
}
