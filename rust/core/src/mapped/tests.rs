use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

mod bus_errors;

type Checked = std::result::Result<(), TestCaseError>;

/// A folder with one file.
struct OnDisk {
    folder: TempDir,
    content: Vec<u8>,
}

impl OnDisk {
    fn new(content: Vec<u8>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("data.bin"), &content).unwrap();
        Self { folder, content }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("data.bin")
    }

    fn try_open(&self) -> Result<Mapped> {
        Mapped::open(
            self.folder.path(),
            "file `data.bin`".to_owned(),
            &self.path(),
            self.content.len() as u64,
            page_hashes(&self.content),
        )
    }

    fn open(&self) -> Mapped {
        self.try_open().unwrap()
    }

    fn file(&self) -> File {
        File::options().write(true).open(self.path()).unwrap()
    }

    fn cut(&self, bytes: usize) {
        self.file().set_len(bytes as u64).unwrap();
    }
}

/// Bytes that look random, never 0.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u8 | 1
    };
    (0..len).map(next).collect()
}

fn problem<T>(result: Result<T>) -> String {
    match result {
        Err(Error::Corrupt { problem, place, .. }) if place == "file `data.bin`" => problem,
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("no error"),
    }
}

const SHORTER: &str = "became shorter while it was open";
const CHANGED: &str = "changed or could not be read while it was open";

/// Lengths at the edges of pages, and any number of zeros at the end.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let lengths = (0usize..4, -9isize..9)
        .prop_map(|(pages, more)| (pages * PAGE).saturating_add_signed(more));
    let zeros = prop_oneof![Just(0usize), 0usize..20, 0usize..3 * PAGE];
    (lengths, zeros, any::<u64>()).prop_map(|(len, zeros, seed)| {
        let mut content = noise(len, seed);
        content[len.saturating_sub(zeros)..].fill(0);
        content
    })
}

fn same_as_slice<T: Pod + PartialEq + fmt::Debug>(
    mapped: &Mapped,
    content: &[u8],
    range: Range<usize>,
) -> Checked {
    let size = size_of::<T>();
    let read = |bytes: &[u8]| -> Vec<T> {
        let values = bytes.chunks_exact(size).map(bytemuck::pod_read_unaligned);
        values.collect()
    };
    if content.len().is_multiple_of(size) {
        prop_assert_eq!(mapped.all::<T>().unwrap(), read(content));
    } else {
        problem(mapped.all::<T>());
    }
    let range = range.start / size..range.end / size;
    let expected = content.get(range.start * size..range.end * size);
    match expected {
        Some(bytes) => prop_assert_eq!(mapped.values::<T>(range).unwrap(), read(bytes)),
        None => drop(problem(mapped.values::<T>(range))),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reads_what_a_slice_reads(
        content in contents(),
        ranges in prop::collection::vec((0usize..4 * PAGE, 0usize..2 * PAGE), 1..6),
    ) {
        let disk = OnDisk::new(content);
        let mapped = disk.open();
        let content = &disk.content;
        prop_assert_eq!(mapped.len(), content.len() as u64);
        for (start, len) in ranges {
            let end = start + len;
            match content.get(start..end) {
                Some(bytes) => prop_assert_eq!(mapped.bytes(start as u64..end as u64).unwrap(), bytes),
                None => drop(problem(mapped.bytes(start as u64..end as u64))),
            }
            same_as_slice::<u16>(&mapped, content, start..end)?;
            same_as_slice::<u64>(&mapped, content, start..end)?;
        }
        mapped.intact().unwrap();
        mapped.still_whole().unwrap();
        mapped.verify().unwrap();
    }

    #[test]
    fn a_stream_hashes_like_the_whole(
        content in contents(),
        pieces in prop::collection::vec(prop_oneof![0usize..9, 0usize..2 * PAGE], 0..9),
    ) {
        let mut hasher = PageHasher::new();
        let mut rest = &content[..];
        for piece in pieces {
            let (head, tail) = rest.split_at(piece.min(rest.len()));
            hasher.update(head);
            rest = tail;
        }
        hasher.update(rest);
        let (bytes, hashes) = hasher.finish();
        prop_assert_eq!(bytes, content.len() as u64);
        prop_assert_eq!(&hashes, &page_hashes(&content));
        let flat: Vec<u8> = hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect();
        prop_assert_eq!(root(&hashes), xxh3_64(&flat));
    }

    #[test]
    fn after_a_cut_the_bytes_are_right_or_an_error(
        content in contents(),
        cuts in prop::collection::vec((0usize..3 * PAGE, any::<bool>(), any::<bool>()), 1..9),
    ) {
        let disk = OnDisk::new(content);
        let all = 0..disk.content.len() as u64;
        for (cut, touched, grown) in cuts {
            let cut = cut.min(disk.content.len());
            fs::write(disk.path(), &disk.content).unwrap();
            let mapped = disk.open();
            let before = if touched { Some(mapped.bytes(all.clone()).unwrap()) } else { None };
            disk.cut(cut);
            if grown {
                disk.cut(disk.content.len());
            }
            // A file that was cut off, grew again and ends in a page of zeros is left to
            // `still_whole`, which sees it by its time.
            let seen = !grown || disk.content[(disk.content.len().saturating_sub(1)) / PAGE * PAGE..]
                .iter()
                .any(|&byte| byte != 0);
            let wrong = before.is_some_and(|bytes| bytes != disk.content);
            prop_assert!(!wrong || !seen || mapped.intact().is_err());
            if let Ok(bytes) = mapped.bytes(all.clone()) && seen {
                let same = bytes == disk.content;
                prop_assert!(same || mapped.intact().is_err());
            }
            if cut < disk.content.len() && !grown {
                prop_assert_eq!(problem(mapped.still_whole()), SHORTER);
                prop_assert_eq!(problem(mapped.intact()), SHORTER);
                prop_assert_eq!(problem(mapped.bytes(0..0)), SHORTER);
            }
        }
    }
}

#[test]
fn a_flipped_byte_is_an_error_of_its_page_and_stays_one() {
    let disk = OnDisk::new(noise(2 * PAGE + 300, 1));
    let len = disk.content.len();
    let edges = [0, PAGE, 2 * PAGE, len].map(|edge| edge.saturating_sub(3)..(edge + 3).min(len));
    let file = disk.file();
    for place in edges.into_iter().flatten().chain((0..len).step_by(997)) {
        let byte = disk.content[place];
        file.write_all_at(&[byte ^ 1 << (place % 8)], place as u64)
            .unwrap();
        let mapped = disk.open();
        let bad = place / PAGE;
        let text = format!(
            "does not match its checksum in page {bad}, bytes {} to",
            bad * PAGE
        );
        for page in 0..3 {
            let range = (page * PAGE) as u64..len.min((page + 1) * PAGE) as u64;
            let read = mapped.bytes(range);
            if page == bad {
                assert!(problem(read).starts_with(&text));
            } else {
                read.unwrap();
            }
        }
        assert!(problem(mapped.verify()).starts_with(&text));
        file.write_all_at(&[byte], place as u64).unwrap();
        // The last byte is the sentinel: when it comes back, all of the file is in doubt.
        let text = if place + 1 == len { CHANGED } else { &text };
        assert!(problem(mapped.bytes(place as u64..place as u64 + 1)).starts_with(text));
        assert!(problem(mapped.verify()).starts_with(text));
        disk.open().verify().unwrap();
    }
}

#[test]
fn long_ranges_are_checked_as_well() {
    let disk = OnDisk::new(noise(140 * PAGE, 11));
    let mapped = disk.open();
    for page in [0, 1, 63, 64, 65, 66, 127, 139] {
        mapped
            .bytes(page * PAGE as u64..page * PAGE as u64 + 1)
            .unwrap();
    }
    disk.file().write_all_at(&[0], 130 * PAGE as u64).unwrap();
    let good = mapped.bytes(0..130 * PAGE as u64).unwrap();
    assert!(good == &disk.content[..130 * PAGE]);
    assert!((0..130).all(|page| mapped.good.get(page)));
    for first in [0, 126, 130] {
        let range = first * PAGE as u64..131 * PAGE as u64;
        assert!(
            problem(mapped.bytes(range)).starts_with("does not match its checksum in page 130")
        );
    }
    problem(mapped.all::<u64>());
    assert!(!mapped.good.get(130));
}

#[test]
fn a_file_that_is_not_the_recorded_one_is_refused() {
    let disk = OnDisk::new(noise(PAGE + 1, 2));
    let hashes = page_hashes(&disk.content);
    let open = |bytes, hashes: &[u64]| {
        let place = "file `data.bin`".to_owned();
        Mapped::open(
            disk.folder.path(),
            place,
            &disk.path(),
            bytes,
            hashes.to_vec(),
        )
    };
    let text = problem(open(PAGE as u64, &hashes[..1]));
    assert_eq!(text, "has 65537 bytes where the manifest says 65536");
    let text = problem(open(PAGE as u64 + 1, &hashes[..1]));
    assert_eq!(text, "has 1 page hashes for 2 pages");
    fs::remove_file(disk.path()).unwrap();
    assert_eq!(problem(disk.try_open()), "is missing");
}

#[test]
fn ranges_beyond_the_end_are_refused() {
    let disk = OnDisk::new(noise(24, 3));
    let mapped = disk.open();
    assert_eq!(
        problem(mapped.bytes(20..25)),
        "is asked for bytes 20 to 25 of 24"
    );
    for range in [u64::MAX - 1..u64::MAX, 25..25] {
        problem(mapped.bytes(range));
    }
    #[expect(clippy::reversed_empty_ranges)] // what a damaged offset gives
    let backward = 5..2;
    problem(mapped.bytes(backward));
    problem(mapped.values::<u64>(0..usize::MAX));
    problem(mapped.values::<u64>(3..4));
    assert_eq!(mapped.values::<u64>(3..3).unwrap(), [0u64; 0]);
}

#[test]
fn a_renamed_or_deleted_file_stays_readable() {
    let disk = OnDisk::new(noise(3 * PAGE, 4));
    let mapped = disk.open();
    let other = disk.folder.path().join("other");
    fs::write(&other, b"short").unwrap();
    fs::rename(&other, disk.path()).unwrap();
    mapped.still_whole().unwrap();
    fs::remove_file(disk.path()).unwrap();
    mapped.still_whole().unwrap();
    assert_eq!(mapped.all::<u8>().unwrap(), disk.content);
    mapped.verify().unwrap();
}

#[test]
fn a_change_in_place_is_noticed_where_it_matters() {
    let disk = OnDisk::new(noise(3 * PAGE, 5));
    let mapped = disk.open();
    let file = disk.file();
    mapped.bytes(0..9).unwrap();
    let later = SystemTime::now() + Duration::from_secs(9);

    // A new time alone is nothing, and neither is a change of a page that nobody has read.
    file.set_modified(later).unwrap();
    mapped.still_whole().unwrap();
    file.write_all_at(&[0; 9], 2 * PAGE as u64).unwrap();
    mapped.still_whole().unwrap();
    file.write_all_at(&[0; 9], 0).unwrap();
    file.set_modified(later + Duration::from_secs(9)).unwrap();
    for _ in 0..2 {
        assert!(problem(mapped.still_whole()).starts_with("does not match its checksum in page 0"));
        assert!(problem(mapped.bytes(0..9)).starts_with("does not match its checksum in page 0"));
    }
    mapped.bytes(PAGE as u64..PAGE as u64 + 9).unwrap();
    problem(mapped.bytes(2 * PAGE as u64..2 * PAGE as u64 + 9));
}

#[test]
fn a_cut_during_reads_from_many_threads_is_an_error_in_each() {
    for (cut, touched) in [
        (0, true),
        (0, false),
        (PAGE + 100, true),
        (40 * PAGE - 1, true),
    ] {
        let disk = OnDisk::new(noise(40 * PAGE, 6));
        let mapped = &disk.open();
        if touched {
            mapped.verify().unwrap();
        }
        let expected = &disk.content[..];
        let barrier = &Barrier::new(5);
        thread::scope(|scope| {
            for number in 0..4usize {
                scope.spawn(move || {
                    barrier.wait();
                    if number == 3 {
                        let error = (0..).find_map(|_| mapped.verify().err());
                        return assert_eq!(problem::<()>(Err(error.unwrap())), SHORTER);
                    }
                    let mut page = number * 10;
                    loop {
                        let range = page * PAGE..(page + 1) * PAGE;
                        let read = mapped.bytes(range.start as u64..range.end as u64);
                        let same = read.map(|bytes| bytes == &expected[range]);
                        match same.and_then(|same| mapped.intact().map(|()| same)) {
                            Ok(same) => assert!(same, "wrong bytes"),
                            Err(error) => break assert_eq!(problem::<()>(Err(error)), SHORTER),
                        }
                        page = (page + 7) % 40;
                    }
                });
            }
            barrier.wait();
            thread::sleep(Duration::from_millis(5));
            disk.cut(cut);
        });
        assert_eq!(problem(mapped.verify()), SHORTER);
    }
}

#[test]
fn slots_are_used_again() {
    let disk = OnDisk::new(noise(100, 7));
    for _ in 0..5 {
        let many: Vec<Mapped> = (0..200).map(|_| disk.open()).collect();
        assert!(many.iter().all(|mapped| mapped.bytes(0..100).is_ok()));
    }
    // Other tests of this process hold some too.
    assert!((200..=512).contains(&registry::capacity()));
}

#[test]
fn a_lookup_finds_its_mapping_while_others_come_and_go() {
    let pages = 16 << 40; // an address beyond those of this process: nothing is read from it
    let slot = registry::Slot::claim(pages, 10);
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 1..3 {
            let done = &done;
            scope.spawn(move || {
                for turn in 0..20_000 {
                    // Half of one and half of the next would enclose the address 5 << 40.
                    let start = if turn % 2 == 0 { 1 } else { 9 } * pages;
                    registry::Slot::claim(start + number * 1_000, 100).release();
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        while done.load(Ordering::Relaxed) < 2 {
            let (found, start, end) = registry::find(pages + 9).unwrap();
            assert!(std::ptr::eq(found, slot) && (start, end) == (pages, pages + 10));
            assert!(registry::find(5 * pages).is_none());
        }
    });
    slot.release();
    assert!(registry::find(pages + 9).is_none());
}

#[expect(clippy::print_stdout)]
fn price(name: &str, calls: u32, call: impl Fn(u64) -> u64) {
    let start = std::time::Instant::now();
    let sum = (0..u64::from(calls)).fold(0, |sum: u64, turn| sum.wrapping_add(call(turn)));
    let each = start.elapsed().as_secs_f64() * 1e9 / f64::from(calls);
    println!("{name}: {each:.1} ns (sum {sum})");
}

/// `cargo test --release -- --ignored --nocapture price_of_a_look`
#[test]
#[ignore = "prints figures and asserts nothing"]
fn price_of_a_look() {
    let disk = OnDisk::new(noise(1000 * PAGE, 10));
    let mapped = disk.open();
    price("first touch of a page", 1000, |turn| {
        u64::from(
            mapped
                .bytes(turn * PAGE as u64..turn * PAGE as u64 + 1)
                .unwrap()[0],
        )
    });
    price("hash alone of a page", 1000, |turn| {
        xxh3_64(&disk.content[turn as usize * PAGE..][..PAGE])
    });
    price("nothing", 10_000_000, |turn| {
        std::hint::black_box(turn * 4097 % (900 * PAGE as u64))
    });
    price("bytes of a warm page", 10_000_000, |turn| {
        let start = turn * 4097 % (900 * PAGE as u64);
        mapped.bytes(start..start + 100).unwrap().len() as u64
    });
    price("bytes of the same warm page", 10_000_000, |turn| {
        mapped
            .bytes(turn % 50_000..turn % 50_000 + 100)
            .unwrap()
            .len() as u64
    });
    price("one value of a warm page", 10_000_000, |turn| {
        mapped
            .values::<u64>(turn as usize % 5000..turn as usize % 5000 + 2)
            .unwrap()[0]
    });
    price("all of 1000 warm pages", 1_000_000, |_| {
        mapped.all::<u8>().unwrap().len() as u64
    });
    price("intact", 10_000_000, |_| u64::from(mapped.intact().is_ok()));
    price("still_whole", 100_000, |_| {
        u64::from(mapped.still_whole().is_ok())
    });
}
