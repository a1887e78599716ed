use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::spill;
use crate::testing::{Corpus, Form, corpora, files, scratch};
use crate::{Index, compact, join};

/// Limits under which nothing fits: every piece is a chunk, and long contexts lie in several.
fn tight(piece: usize, group: usize) -> Limits {
    Limits {
        piece,
        chunk: 1,
        starts: 0,
        group,
    }
}

fn set_limits(writer: &mut Writer, limits: Limits) {
    let length = writer.parameters().context_length;
    let n_latents = writer.hooks.iter().map(|h| h.manifest.parameters.n_latents);
    writer.checker = Checker::new(length, n_latents.collect(), limits);
    writer.limits = limits;
}

/// Adds contexts `from..to`, in batches whose forms change.
fn add(corpus: &Corpus, writer: &mut Writer, from: usize, to: usize, batch: usize) -> Result<()> {
    for (at, form) in (from..to).step_by(batch).zip(Form::ALL.into_iter().cycle()) {
        corpus.add_as(writer, at, to.min(at + batch), form)?;
    }
    Ok(())
}

fn options() -> Options {
    Options { durable: false }
}

fn open(path: &Path, corpus: &Corpus) -> Writer {
    Writer::open_with(path, corpus.parameters.clone(), options()).unwrap()
}

/// All that an index says.
fn answers(path: &Path) -> Vec<Vec<(u64, f32)>> {
    let index = Index::open(path, false).unwrap();
    index.verify().unwrap();
    let postings = |latent| {
        let found = index.postings(latent).unwrap();
        found.positions.into_iter().zip(found.activations).collect()
    };
    (0..index.n_latents()).map(postings).collect()
}

fn two(corpus: &Corpus) -> Vec<(String, Parameters)> {
    let other = Parameters {
        n_latents: corpus.parameters.n_latents + 3,
        lossless: !corpus.parameters.lossless,
        ..corpus.parameters.clone()
    };
    vec![
        ("a".to_owned(), corpus.parameters.clone()),
        ("b".to_owned(), other),
    ]
}

fn add_two(corpus: &Corpus, writer: &mut Writer, from: usize, to: usize) -> Result<()> {
    corpus.with_batch(from, to, Form::Sorted, |batch| {
        // The second hookpoint has more latents and the same activations.
        let Activity::Sorted {
            starts,
            positions,
            activations,
        } = batch.activities[0]
        else {
            return Ok(());
        };
        let mut more = starts.to_vec();
        more.extend([*starts.last().unwrap(); 3]);
        let second = Activity::Sorted {
            starts: &more,
            positions,
            activations,
        };
        let activities = [batch.activities[0], second];
        writer.add(
            &Batch {
                activities: &activities,
                ..*batch
            },
            None,
        )
    })
}

use crate::batch::Activity;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn bytes_do_not_depend_on_batches_forms_limits_or_threads(
        corpus in corpora(), lossless: bool, batch in 1usize..9, piece in 3usize..70, group in 1usize..99,
        threads in 1usize..4,
    ) {
        let mut corpus = corpus;
        corpus.parameters.lossless = lossless;
        let folder = scratch();
        let (whole, split) = (folder.path().join("whole"), folder.path().join("split"));
        let mut writer = open(&whole, &corpus);
        // The hash of a long context is made of those of its parts.
        set_limits(&mut writer, Limits { piece, ..Limits::default() });
        corpus.add(&mut writer, 0, corpus.contexts()).unwrap();
        writer.finish().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut writer = open(&split, &corpus);
            set_limits(&mut writer, tight(piece, group));
            add(&corpus, &mut writer, 0, corpus.contexts(), batch).unwrap();
            writer.finish().unwrap();
        });
        prop_assert!(files(&whole) == files(&split));
    }

    #[test]
    fn an_interrupted_build_run_again_ends_in_the_same_bytes(
        corpus in corpora(), reached in 0usize..9, batch in 1usize..4, jump: bool, spilled: bool,
        damage in prop::option::of((0.0..1.0, any::<bool>())),
    ) {
        let folder = scratch();
        let (once, twice) = (folder.path().join("once"), folder.path().join("twice"));
        corpus.build(&once, 2).unwrap();
        {
            let mut writer = open(&twice, &corpus);
            if spilled {
                set_limits(&mut writer, tight(corpus.length(), 99));
            }
            add(&corpus, &mut writer, 0, reached.min(corpus.contexts()), batch).unwrap();
            writer.abandon();
        }
        if let Some((share, flip)) = damage {
            tear(&twice, share, flip);
        }
        let mut writer = open(&twice, &corpus);
        let from = (writer.next_context() - corpus.parameters.first_context) as usize;
        if jump {
            writer.cursor = writer.next_context();
        }
        add(&corpus, &mut writer, if jump { from } else { 0 }, corpus.contexts(), batch).unwrap();
        writer.finish().unwrap();
        prop_assert!(files(&once) == files(&twice));
        corpus.build(&twice, batch).unwrap();
        prop_assert!(files(&once) == files(&twice));
    }

    #[test]
    fn a_build_that_fails_at_any_step_goes_on(
        corpus in corpora(), step in 0u32..9, batch in 1usize..4, last in 0usize..9,
    ) {
        let folder = scratch();
        let (once, twice) = (folder.path().join("once"), folder.path().join("twice"));
        let n = corpus.contexts();
        let last = last.min(n);
        for path in [&once, &twice] {
            let mut writer = Writer::open_many(path, &two(&corpus), options()).unwrap();
            writer.fail_at = (path == &twice).then_some(step);
            let added = add_two(&corpus, &mut writer, 0, last)
                .and_then(|()| writer.finish());
            prop_assert!(added.is_ok() || path == &twice);
            writer.abandon();
        }
        for path in [&once, &twice] {
            let mut writer = Writer::open_many(path, &two(&corpus), options()).unwrap();
            for at in (0..n).step_by(batch) {
                add_two(&corpus, &mut writer, at, n.min(at + batch)).unwrap();
            }
            writer.finish().unwrap();
        }
        for path in [&once, &twice] {
            let (a, b) = (answers(&path.join("a")), answers(&path.join("b")));
            prop_assert_eq!(a.len() + 3, b.len());
            prop_assert_eq!(a.iter().map(Vec::len).sum::<usize>(), b.iter().map(Vec::len).sum::<usize>());
            for (latent, found) in a.iter().enumerate() {
                prop_assert_eq!(found, &corpus.kept(latent as u32));
            }
        }
        for path in [&once, &twice] {
            compact(path, options()).unwrap();
        }
        prop_assert!(files(&once) == files(&twice));
    }

    #[test]
    fn what_is_added_to_or_joined_is_after_compaction_as_if_built_at_once(
        corpus in corpora(), lossless: bool, cuts in prop::collection::vec(0usize..9, 0..4), joined: bool,
    ) {
        let mut corpus = corpus;
        corpus.parameters.lossless = lossless;
        check_parts(&corpus, cuts, joined)?;
    }

    #[test]
    fn a_finished_index_can_be_extended(corpus in corpora(), reached in 0usize..9) {
        let folder = scratch();
        let path = folder.path().join("index");
        let mut writer = open(&path, &corpus);
        corpus.add(&mut writer, 0, reached.min(corpus.contexts())).unwrap();
        writer.finish().unwrap();
        let old = files(&path);
        corpus.build(&path, 2).unwrap();
        let new = files(&path);
        prop_assert!(old.iter().all(|(name, bytes)| name == "manifest.json" || new[name] == *bytes));
        let index = Index::open(&path, false).unwrap();
        prop_assert_eq!(index.n_contexts() as usize, corpus.contexts());
        for latent in 0..index.n_latents() {
            let postings = index.postings(latent).unwrap();
            let found: Vec<_> = postings.positions.into_iter().zip(postings.activations).collect();
            prop_assert_eq!(found, corpus.kept(latent));
        }
    }
}

/// Cuts the spill off or flips a byte of it.
fn tear(index: &Path, share: f64, flip: bool) {
    let Ok(folders) = fs::read_dir(index.join(spill::FOLDER)) else {
        return;
    };
    for folder in folders {
        let path = folder.unwrap().path().join("spill.bin");
        let mut bytes = fs::read(&path).unwrap();
        let at = (bytes.len() as f64 * share) as usize;
        if flip && at < bytes.len() {
            bytes[at] ^= 4;
        } else {
            bytes.truncate(at);
        }
        fs::write(&path, bytes).unwrap();
    }
}

fn check_parts(corpus: &Corpus, cuts: Vec<usize>, joined: bool) -> crate::testing::TestResult {
    let folder = scratch();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    corpus.build(&whole, 3).unwrap();
    let n = corpus.contexts();
    let mut cuts: Vec<usize> = cuts
        .into_iter()
        .map(|cut| cut.min(n))
        .chain([0, n])
        .collect();
    cuts.sort_unstable();
    let mut paths: Vec<PathBuf> = Vec::new();
    for (number, cut) in cuts.windows(2).enumerate() {
        let mut part = corpus.clone();
        let mut path = parts.clone();
        if joined {
            part.parameters.first_context += cut[0] as u64;
            path = folder.path().join(format!("part {number}"));
        }
        let mut writer = open(&path, &part);
        writer.cursor = corpus.parameters.first_context + cut[0] as u64;
        corpus.add(&mut writer, cut[0], cut[1]).unwrap();
        writer.finish().unwrap();
        paths.push(path);
    }
    if joined {
        paths.reverse();
        join(&paths, &parts, options()).unwrap();
    }
    if corpus.parameters.lossless {
        prop_assert_eq!(answers(&parts), answers(&whole));
    }
    compact(&parts, options()).unwrap();
    prop_assert!(files(&parts) == files(&whole));
    compact(&parts, options()).unwrap();
    prop_assert!(files(&parts) == files(&whole));
    Ok(())
}

#[test]
fn compaction_of_long_lists_keeps_the_low_bits_of_the_strongest() {
    for seed in 0..4 {
        let corpus = Corpus::long(seed);
        for joined in [false, true] {
            check_parts(&corpus, vec![90, 700, 1100], joined).unwrap();
        }
    }
}

#[test]
fn parts_that_do_not_follow_one_another_are_refused() {
    let folder = scratch();
    let corpus = Corpus::long(1);
    let part = |name: &str, from: usize, to: usize| {
        let mut part = corpus.clone();
        part.parameters.first_context = from as u64;
        let path = folder.path().join(name);
        let mut writer = open(&path, &part);
        corpus.add(&mut writer, from, to).unwrap();
        writer.finish().unwrap();
        path
    };
    let (a, b, c) = (part("a", 0, 5), part("b", 4, 9), part("c", 9, 12));
    let out = folder.path().join("out");
    let refused = |parts: &[PathBuf]| join(parts, &out, options()).unwrap_err().to_string();
    assert!(refused(&[a.clone(), b.clone()]).contains("contexts 4 to 5 are in two parts"));
    assert!(refused(&[c, a]).contains("contexts 5 to 9 are missing"));
}

#[test]
fn a_second_writer_is_refused_until_the_first_lets_go() {
    let folder = scratch();
    let parameters = Parameters {
        n_latents: 2,
        context_length: 4,
        window: 4,
        first_context: 0,
        segment_contexts: 2,
        split_seed: 0,
        lossless: false,
        text: "text".to_owned(),
        attributes: std::collections::BTreeMap::new(),
    };
    let mut first = Writer::open(folder.path(), parameters.clone()).unwrap();
    let refused = Writer::open(folder.path(), parameters.clone()).unwrap_err();
    assert!(refused.to_string().contains("another writer"), "{refused}");
    first.abandon();
    Writer::open(folder.path(), parameters).unwrap();
}
