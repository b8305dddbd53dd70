use super::*;
use crate::testing::{Step, bits, device};
use burn::tensor::Tolerance;

const VOCAB: usize = 11;

fn config(head: EncoderHead) -> EncoderConfig {
    EncoderConfig::new(VOCAB, 6, head)
        .with_d_model(8)
        .with_d_ff(12)
        .with_n_heads(2)
}

/// Two sequences of four tokens; the last one comes twice.
fn tokens(device: &Device) -> Tensor<2, Int> {
    Tensor::from_data([[0, 3, 7, 10], [5, 1, 10, 2]], device)
}

#[test]
fn shapes_and_parameters() {
    let device = device();
    let classes = config(EncoderHead::Classes(3)).init(&device);
    let tied = config(EncoderHead::TiedVocabulary).init(&device);
    assert_eq!(classes.forward(tokens(&device)).dims(), [2, 3]);
    assert_eq!(tied.forward(tokens(&device)).dims(), [2, VOCAB]);

    let norm = 2 * 8;
    let attention = 4 * (8 * 8 + 8);
    let feed_forward = 8 * 12 + 12 + 12 * 8 + 8;
    let body = VOCAB * 8 + 6 * 8 + 2 * (2 * norm + attention + feed_forward) + norm;
    assert_eq!(tied.num_params(), body);
    assert_eq!(classes.num_params(), body + 8 * 3 + 3);
}

#[test]
fn a_step_lowers_the_loss() {
    let device = device().autodiff();
    for (head, classes) in [
        (EncoderHead::Classes(3), 3),
        (EncoderHead::TiedVocabulary, VOCAB),
    ] {
        let config = config(head);
        Step::new(&device, classes)
            .check(|d| config.init(d), |model| model.forward(tokens(&device)));
    }
}

#[test]
fn a_tied_weight_gets_the_gradient_of_both_uses() {
    let device = device().autodiff();
    let model = config(EncoderHead::TiedVocabulary).init(&device);
    let step = Step::new(&device, VOCAB);
    let gradient = |logits| {
        let grads = step.loss(logits).backward();
        model.tokens.weight.val().grad(&grads).unwrap()
    };

    let hidden = || model.encode(tokens(&device));
    let weight = || model.tokens.weight.val().transpose();
    let both = gradient(model.forward(tokens(&device)));
    let as_input = gradient(hidden().matmul(weight().detach()));
    let as_output = gradient(hidden().detach().matmul(weight()));

    // The softmax reaches every row, the lookup only those of tokens in the batch: row 4 is none.
    let rows = |gradient: &Tensor<2>| {
        let sums = gradient.clone().abs().sum_dim(1).into_data();
        sums.try_to_vec::<f32>().unwrap()
    };
    let (input_rows, output_rows) = (rows(&as_input), rows(&as_output));
    assert!(
        input_rows[4] == 0.0 && input_rows[3] > 0.0,
        "{input_rows:?}"
    );
    assert!(output_rows.iter().all(|sum| *sum > 0.0), "{output_rows:?}");
    // The same two terms are added in both cases; the passes may round them differently.
    both.into_data().assert_approx_eq::<f32>(
        &(as_input + as_output).into_data(),
        Tolerance::rel_abs(1e-5, 1e-7),
    );
}

#[test]
fn the_order_of_tokens_matters() {
    let device = device();
    let config = config(EncoderHead::Classes(3));
    let model = burn_dist::random::init(1, &device, |device| config.init(device));
    let forwards = Tensor::from_data([[1, 2, 3]], &device);
    let backwards = Tensor::from_data([[3, 2, 1]], &device);
    let difference = model.forward(forwards) - model.forward(backwards);
    // Without positions the mean would be the same, to rounding.
    assert!(difference.abs().max().into_scalar::<f32>() > 1e-3);
}

#[test]
fn dropout_acts_in_training_and_never_in_validation() {
    let device = device().autodiff();
    let model = config(EncoderHead::Classes(3))
        .with_dropout(0.5)
        .init(&device);
    let train = || bits(model.forward(tokens(&device)));
    assert_ne!(train(), train());
    let valid = model.valid();
    let inner = crate::testing::device();
    let valid = || bits(valid.forward(tokens(&inner)));
    assert_eq!(valid(), valid());

    let without = config(EncoderHead::Classes(3)).init(&device);
    let train = || bits(without.forward(tokens(&device)));
    assert_eq!(train(), train());
}

#[test]
fn a_config_can_be_written_and_read() {
    let config = config(EncoderHead::Classes(3)).with_dropout(0.1);
    let read = EncoderConfig::load_binary(config.to_string().as_bytes()).unwrap();
    assert_eq!(read.head, EncoderHead::Classes(3));
    assert_eq!(read.to_string(), config.to_string());
}

#[test]
#[should_panic(expected = "a sequence of 7 tokens is longer than max_seq_len 6")]
fn a_sequence_that_is_too_long() {
    let device = device();
    config(EncoderHead::Classes(3))
        .init(&device)
        .forward(Tensor::zeros([1, 7], &device));
}

#[test]
#[should_panic(expected = "d_model 8 is not a multiple of n_heads 3")]
fn heads_that_do_not_divide_the_width() {
    config(EncoderHead::Classes(3))
        .with_n_heads(3)
        .init(&device());
}
