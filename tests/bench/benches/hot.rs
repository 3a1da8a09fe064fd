//! How long the hot functions take, by themselves: absolute times, for comparing one's own changes on a quiet machine.
//!
//! What CI watches are instructions (`tests/counts`), what the tables tell are ratios (`cargo xtask bench`): neither depends on what else the
//! machine does, as these do.

use std::collections::HashMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use counts::{SEGMENTS, Tunnel};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dtls::Suite;

criterion_group!(hot, records, packets, lookup);
criterion_main!(hot);

/// Sealed and opened, and the AEAD alone.
fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record of 1400 bytes");
    group.throughput(Throughput::Bytes(counts::LENGTH as u64));
    for suite in Suite::ALL {
        for ids in [false, true] {
            let tunnel = Tunnel { suite, ids };
            let name = format!("{}{}", suite.name(), if ids { ", id" } else { "" });
            group.bench_function(BenchmarkId::new("seal", &name), |b| b.iter(counts::seal(tunnel)));
            group.bench_function(BenchmarkId::new("seal and open", &name), |b| {
                b.iter(counts::record(tunnel))
            });
            group.bench_function(BenchmarkId::new("AEAD alone", &name), |b| {
                b.iter(counts::bare_record(tunnel))
            });
        }
    }
}

/// A super-packet cut, put together, and a packet's checksum.
fn packets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("super-packet");
    group.throughput(Throughput::Elements(SEGMENTS as u64));
    group.bench_function("cut", |b| b.iter(counts::segment()));
    group.bench_function("put together", |b| b.iter(counts::coalesce()));
    group.finish();
    let mut group = criterion.benchmark_group("checksum");
    group.throughput(Throughput::Bytes(counts::LENGTH as u64));
    group.bench_function("1400 bytes", |b| b.iter(counts::checksum()));
}

/// From the destination of a packet to its session: the table itself is private to the gateway, so here is one like it.
fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session by address");
    for sessions in [1u32, 100, 1_000, 10_000] {
        let address = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a4e_0000 + number));
        let table: HashMap<IpAddr, u64> = (0..sessions).map(|number| (address(number), number.into())).collect();
        let mut number = 0;
        group.bench_function(BenchmarkId::from_parameter(sessions), |b| {
            b.iter(|| {
                // An odd step visits all of them, none twice in a row.
                number = (number + 7919) % sessions;
                black_box(table.get(black_box(&address(number))))
            });
        });
    }
}
