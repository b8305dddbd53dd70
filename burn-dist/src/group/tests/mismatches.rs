//! Ranks of several processes that make different calls get one error, which says who made which.

use super::on_job;
use super::support::mismatches::{
    Mismatch, another_form, another_object, another_operation, another_order, another_reduction,
    another_root, another_root_of_many, another_shape, another_type, message_mismatch,
    other_rounds,
};

/// Number of ranks that each process hosts: layouts in which few processes and more take part.
const LAYOUTS: [&[usize]; 9] = [
    &[1, 1],
    &[2, 1],
    &[1, 2],
    &[1, 1, 1],
    &[2, 2],
    &[1; 4],
    &[1; 5],
    &[2, 1, 1, 3, 1, 1],
    &[1; 8],
];

/// The last rank of each layout, whose number is given, makes other calls; all errors must be mismatches.
#[track_caller]
fn check(mismatch: impl Fn(usize) -> Mismatch) {
    for layout in LAYOUTS {
        let mismatch = mismatch(layout.iter().sum::<usize>() - 1);
        let errors = on_job(layout, |group| mismatch.run(&group));
        mismatch.check(&errors);
    }
}

#[test]
fn another_operation_is_a_mismatch() {
    check(|_| another_operation());
    check(|_| other_rounds());
}

#[test]
fn another_shape_type_or_reduction_is_a_mismatch() {
    check(|_| another_shape());
    check(|_| another_type());
    check(|_| another_reduction());
}

#[test]
fn another_root_is_a_mismatch() {
    check(another_root);
    check(another_root_of_many);
    check(another_object);
}

#[test]
fn another_form_is_a_mismatch() {
    check(|_| another_form());
}

#[test]
fn another_order_is_a_mismatch() {
    check(|_| another_order());
}

#[test]
fn a_message_of_another_type_or_length_is_a_mismatch() {
    on_job(&[1, 1], |group| message_mismatch(&group, &[0.0_f32; 3]));
    on_job(&[1, 1], |group| message_mismatch(&group, &[0_i32; 4]));
}
