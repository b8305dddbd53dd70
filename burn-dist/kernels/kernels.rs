//! Times the inner kernels of burn-dist; see README.md.

use std::hint::black_box;

use burn::tensor::{DType, TensorData};
use burn_dist::kernels::{Bucket, reduce};
use burn_dist::{Element, ReduceOp};
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use half::{bf16, f16};

/// Numbers of elements: with f32 and two ranks these are 32 KiB, 512 KiB and 64 MiB.
const LENGTHS: [usize; 3] = [4 << 10, 64 << 10, 8 << 20];

/// Numbers between -1 and 1 that are not all alike.
fn numbers(length: usize) -> impl Iterator<Item = f32> {
    (0..length).map(|i| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0)
}

fn reductions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reduce");
    reduction::<f32>(&mut group, ReduceOp::Mean, |x| x);
    reduction::<f32>(&mut group, ReduceOp::Sum, |x| x);
    reduction::<f64>(&mut group, ReduceOp::Sum, f64::from);
    reduction::<f16>(&mut group, ReduceOp::Mean, f16::from_f32);
    reduction::<f16>(&mut group, ReduceOp::Sum, f16::from_f32);
    reduction::<bf16>(&mut group, ReduceOp::Mean, bf16::from_f32);
    reduction::<bf16>(&mut group, ReduceOp::Sum, bf16::from_f32);
    group.finish();
}

fn reduction<T: Element>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    op: ReduceOp,
    make: impl Fn(f32) -> T,
) {
    for ranks in [2, 4] {
        for length in LENGTHS {
            let sources: Vec<Vec<T>> = vec![numbers(length).map(&make).collect(); ranks];
            let sources: Vec<&[T]> = sources.iter().map(Vec::as_slice).collect();
            let mut target = sources[0].to_vec();
            let bytes = ranks * size_of_val(sources[0]);
            group.throughput(Throughput::Bytes(bytes as u64));
            let name = format!("{}/{op:?}/{ranks} ranks", T::NAME);
            group.bench_function(BenchmarkId::new(name, bytes), |bencher| {
                bencher.iter(|| reduce(op, black_box(&sources), black_box(&mut target)));
            });
        }
    }
}

fn buckets(criterion: &mut Criterion) {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let name = format!("{dtype:?}").to_lowercase();
        for length in LENGTHS {
            let gradient =
                TensorData::new(numbers(length).collect(), [length]).convert_dtype(dtype);
            let bytes = length * dtype.size();
            let mut bucket = Bucket::new(length);
            let mut group = criterion.benchmark_group("pack");
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(BenchmarkId::new(&name, bytes), |bencher| {
                bencher.iter(|| bucket.pack(black_box(&gradient)));
            });
            group.finish();
            let mut average = bucket.lend();
            let mut group = criterion.benchmark_group("unpack");
            group.throughput(Throughput::Bytes((length * size_of::<f32>()) as u64));
            group.bench_function(BenchmarkId::new(&name, bytes), |bencher| {
                bencher.iter(|| black_box(&mut average).unpack(dtype));
            });
            group.finish();
        }
    }
}

criterion_group!(benches, reductions, buckets);
criterion_main!(benches);
