//! Prints how fast an index is built from token-major batches and from sorted runs.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]
use glossator_core::*;
use std::time::Instant;

fn rss() -> u64 {
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    let find = |k: &str| s.lines().find(|l| l.starts_with(k)).unwrap().split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
    find("VmHWM:") / 1024
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let contexts: usize = args[1].parse().unwrap();
    let batch: usize = args[2].parse().unwrap();
    let form = args[3].as_str();
    let out = std::path::PathBuf::from(&args[4]);
    let (l, k, s) = (32768u32, 32usize, 256usize);
    // Eight different batches, used again and again.
    let mut x = 1u64;
    let mut next = move || { x ^= x << 13; x ^= x >> 7; x ^= x << 17; x };
    let mut batches = Vec::new();
    for _ in 0..4 {
        let n = batch * s;
        let tokens: Vec<u32> = (0..n).map(|_| (next() % 50000) as u32).collect();
        let mut latents = Vec::with_capacity(n * k);
        let mut acts = Vec::with_capacity(n * k);
        for _ in 0..n {
            let from = latents.len();
            while latents.len() < from + k {
                // skewed towards small ids, then scattered
                let u = (next() >> 11) as f64 / (1u64 << 53) as f64;
                let id = ((l as f64) * u.powf(3.0)) as u32;
                let id = (id.wrapping_mul(12347)) % l;
                if !latents[from..].contains(&id) {
                    latents.push(id);
                    let v = 0.1 * (1.0 / (1.0 - (next() >> 11) as f64 / (1u64 << 53) as f64)).powf(0.5);
                    acts.push(v as f32);
                }
            }
        }
        batches.push((tokens, latents, acts));
    }
    let sorted: Vec<(Vec<u64>, Vec<u32>, Vec<u16>)> = batches.iter().map(|(_, la, ac)| {
        let mut idx: Vec<u32> = (0..la.len() as u32).collect();
        idx.sort_by_key(|&i| la[i as usize]);
        let mut starts = vec![0u64; l as usize + 1];
        for &v in la { starts[v as usize + 1] += 1; }
        for i in 0..l as usize { starts[i + 1] += starts[i]; }
        (starts, idx.iter().map(|&i| i / k as u32).collect(), idx.iter().map(|&i| code::bf16_of(ac[i as usize])).collect())
    }).collect();
    let documents: Vec<u64> = (0..batch as u64).collect();
    let _ = std::fs::remove_dir_all(&out);
    let p = Parameters { n_latents: l, context_length: s as u32, window: 32, first_context: 0,
        segment_contexts: default_segment_contexts(s as u32), split_seed: 0, lossless: args.len() > 5, text: "text".into(), attributes: Default::default() };
    let before = rss();
    let start = Instant::now();
    let mut w = Writer::open_with(&out, p, Options { durable: false }).unwrap();
    for b in 0..contexts / batch {
        let (tokens, latents, acts) = &batches[b % 4];
        let (starts, positions, bits) = &sorted[b % 4];
        let activity = if form == "dense" {
            Activity::Dense { k, latents, activations: Values::F32(acts) }
        } else {
            Activity::Sorted { starts, positions, activations: Values::Bf16(bits) }
        };
        w.add(&Batch { tokens, documents: &documents, mask: None, activities: &[activity] }, None).unwrap();
    }
    let added = start.elapsed().as_secs_f64();
    w.finish().unwrap();
    let t = start.elapsed().as_secs_f64();
    let nnz = contexts * s * k;
    println!("{form} batch {batch}: {:.1} M nnz in {t:.2} s ({added:.2} adding) = {:.1} M/s, peak {} MiB over {before}", nnz as f64 / 1e6, nnz as f64 / 1e6 / t, rss() - before);
}
