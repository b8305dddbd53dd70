//! A small transformer encoder that classifies sequences of tokens.
//!
//! Built from Burn's attention and feed-forward modules rather than from its `TransformerEncoder`,
//! whose dropout draws from the generator that all replica threads share.

use burn::config::Config;
use burn::module::Module;
use burn::nn::attention::{MhaInput, MultiHeadAttention, MultiHeadAttentionConfig};
use burn::nn::transformer::{PositionWiseFeedForward, PositionWiseFeedForwardConfig};
use burn::nn::{
    Embedding, EmbeddingConfig, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig,
};
use burn::tensor::{Device, Int, Tensor};
use burn_dist::random::{Dropout, DropoutConfig};

/// Configuration of an [`Encoder`].
#[derive(Config, Debug)]
pub struct EncoderConfig {
    /// Number of tokens; ids are below it.
    pub vocab_size: usize,
    /// The longest sequence.
    pub max_seq_len: usize,
    /// Purpose of the logits.
    pub head: EncoderHead,
    /// The width of the hidden states, a multiple of `n_heads`.
    #[config(default = 32)]
    pub d_model: usize,
    /// The width inside the feed-forward layers.
    #[config(default = 64)]
    pub d_ff: usize,
    /// Attention heads of each block.
    #[config(default = 4)]
    pub n_heads: usize,
    /// Blocks, one after the other.
    #[config(default = 2)]
    pub n_layers: usize,
    /// Dropout of the embeddings and of each block's two branches, in `[0, 1)`; 0 turns it off.
    #[config(default = 0.0)]
    pub dropout: f64,
}

/// Purpose of the logits of an [`Encoder`].
#[derive(Config, Debug, PartialEq, Eq)]
pub enum EncoderHead {
    /// So many classes, by a linear layer.
    Classes(usize),
    /// The tokens of the vocabulary, by the weight of the token embedding, which is thus used twice
    /// (Press and Wolf, 2017).
    TiedVocabulary,
}

impl EncoderConfig {
    /// Makes the network.
    ///
    /// # Panics
    ///
    /// Panics when `d_model` is not a multiple of `n_heads`, or `dropout` is not in `[0, 1)`.
    pub fn init(&self, device: &Device) -> Encoder {
        assert!(
            self.n_heads > 0 && self.d_model.is_multiple_of(self.n_heads),
            "d_model {} is not a multiple of n_heads {}",
            self.d_model,
            self.n_heads
        );
        // As tied logits, rows of unit length keep the first loss near that of a uniform guess.
        let std = 1.0 / (self.d_model as f64).sqrt();
        let embedding = |count| {
            EmbeddingConfig::new(count, self.d_model)
                .with_initializer(Initializer::Normal { mean: 0.0, std })
                .init(device)
        };
        Encoder {
            tokens: embedding(self.vocab_size),
            positions: embedding(self.max_seq_len),
            dropout: DropoutConfig::new(self.dropout).init(),
            blocks: (0..self.n_layers).map(|_| self.block(device)).collect(),
            norm: LayerNormConfig::new(self.d_model).init(device),
            head: match self.head {
                EncoderHead::Classes(count) => {
                    Some(LinearConfig::new(self.d_model, count).init(device))
                }
                EncoderHead::TiedVocabulary => None,
            },
        }
    }

    fn block(&self, device: &Device) -> EncoderBlock {
        EncoderBlock {
            norm1: LayerNormConfig::new(self.d_model).init(device),
            attention: MultiHeadAttentionConfig::new(self.d_model, self.n_heads)
                .with_dropout(0.0)
                .init(device),
            norm2: LayerNormConfig::new(self.d_model).init(device),
            feed_forward: PositionWiseFeedForwardConfig::new(self.d_model, self.d_ff)
                .with_dropout(0.0)
                .init(device),
            dropout: DropoutConfig::new(self.dropout).init(),
        }
    }
}

/// Token and learned position embeddings, encoder blocks, the mean over the sequence, and logits.
///
/// Should be created with [`EncoderConfig`].
#[derive(Module, Debug)]
pub struct Encoder {
    /// One row per token.
    pub tokens: Embedding,
    /// One row per position.
    pub positions: Embedding,
    /// After the embeddings.
    pub dropout: Dropout,
    /// The blocks, from input to output.
    pub blocks: Vec<EncoderBlock>,
    /// After the last block.
    pub norm: LayerNorm,
    /// The classes' layer, or none where the logits use the token embedding's weight.
    pub head: Option<Linear>,
}

impl Encoder {
    /// Gives the logits of each sequence.
    ///
    /// # Shapes
    ///
    /// - tokens: `[batch, seq]`, with `seq` from 1 to `max_seq_len`
    /// - output: `[batch, classes]`, or `[batch, vocab_size]` with tied weights
    ///
    /// # Panics
    ///
    /// Panics when the sequences are longer than `max_seq_len`.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<2> {
        let hidden = self.encode(tokens);
        match &self.head {
            Some(head) => head.forward(hidden),
            None => hidden.matmul(self.tokens.weight.val().transpose()),
        }
    }

    /// The mean hidden state of each sequence, `[batch, d_model]`.
    fn encode(&self, tokens: Tensor<2, Int>) -> Tensor<2> {
        let [_, seq] = tokens.dims();
        let [max_seq_len, _] = self.positions.weight.shape().dims();
        assert!(
            seq <= max_seq_len,
            "a sequence of {seq} tokens is longer than max_seq_len {max_seq_len}"
        );
        let positions = Tensor::arange(0..seq as i64, &tokens.device()).unsqueeze();
        let x = self.tokens.forward(tokens) + self.positions.forward(positions);
        let x = self
            .blocks
            .iter()
            .fold(self.dropout.forward(x), |x, block| block.forward(x));
        self.norm.forward(x).mean_dim(1).squeeze_dim(1)
    }
}

/// Self-attention and a feed-forward layer, each normalised first and added to its input (the pre-norm
/// form of Xiong et al., 2020).
#[derive(Module, Debug)]
pub struct EncoderBlock {
    /// Before the attention.
    pub norm1: LayerNorm,
    /// Self-attention, without dropout of its own.
    pub attention: MultiHeadAttention,
    /// Before the feed-forward layer.
    pub norm2: LayerNorm,
    /// The feed-forward layer, without dropout of its own.
    pub feed_forward: PositionWiseFeedForward,
    /// Of what attention and feed-forward layer add.
    pub dropout: Dropout,
}

impl EncoderBlock {
    /// Applies the block.
    ///
    /// # Shapes
    ///
    /// Input and output `[batch, seq, d_model]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let attended = self
            .attention
            .forward(MhaInput::self_attn(self.norm1.forward(x.clone())));
        let x = x + self.dropout.forward(attended.context);
        let fed = self.feed_forward.forward(self.norm2.forward(x.clone()));
        x + self.dropout.forward(fed)
    }
}

#[cfg(test)]
mod tests;
