//! Networks used by burn-dist's examples, tests and benches.
//!
//! Each network is an ordinary Burn module with a Burn config; none knows how it is trained. Their
//! dropout is [`burn_dist::random::Dropout`], whose masks do not depend on the timing of replica
//! threads.
//!
//! ```
//! # use burn::tensor::{Device, Tensor};
//! use models::MlpConfig;
//!
//! let device = Device::flex();
//! let model = MlpConfig::new(vec![4, 8, 3]).init(&device);
//! let logits = model.forward(Tensor::ones([2, 4], &device));
//! assert_eq!(logits.dims(), [2, 3]);
//! ```

mod encoder;
mod mlp;
mod mnist_cnn;
#[cfg(test)]
mod testing;

pub use encoder::{Encoder, EncoderBlock, EncoderConfig, EncoderHead};
pub use mlp::{Mlp, MlpConfig};
pub use mnist_cnn::{MnistCnn, MnistCnnConfig};
