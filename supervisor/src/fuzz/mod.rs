//! Every parser of what comes from outside, fed with mutated samples.
//!
//! `cargo xtask fuzz --for 60s` lets each run so long; an ordinary test run gives each a moment. An input is kept for
//! further mutation when it leads to an answer that was not seen before. An input that panics, or takes longer than
//! [`PATIENCE`], is printed. Samples lie in `supervisor/fuzz/PARSER`.

mod mutate;
mod parsers;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use mutate::Mutator;

/// How long each parser is tried, in seconds.
const SECONDS: &str = "MONOPOD_FUZZ_SECONDS";
/// Where the choices begin; by default another place each time.
const SEED: &str = "MONOPOD_FUZZ_SEED";
/// In an ordinary test run.
const MOMENT: Duration = Duration::from_millis(100);
/// The longest that one input may take. The machine may be busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// Inputs that are kept for mutation.
const KEPT_MAX: usize = 1024;

/// A parser: it answers what an input led to, in a word or two.
type Parse = fn(&[u8]) -> String;

fn duration() -> Duration {
    let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok());
    seconds.map_or(MOMENT, Duration::from_secs)
}

fn seed() -> u64 {
    let given = std::env::var(SEED).ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0)
}

/// The files of a parser, and what its module makes itself.
fn samples(name: &str, made: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|file| file.path()).collect();
    files.sort();
    let mut samples: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    samples.extend(made);
    assert!(!samples.is_empty(), "{} has no samples", dir.display());
    samples
}

/// Tries a parser until the time is up.
fn fuzz(name: &'static str, parse: Parse, made: Vec<Vec<u8>>) {
    let (samples, seed) = (samples(name, made), seed());
    let current = Arc::new(Mutex::new((0_u64, Vec::new())));
    let (done, ended) = mpsc::channel();
    let shared = Arc::clone(&current);
    std::thread::spawn(move || done.send(run(parse, samples, seed, &shared)));
    let mut before = 0;
    loop {
        match ended.recv_timeout(PATIENCE) {
            Ok(Ok(tried)) => return println!("{name}: {tried} inputs"),
            Ok(Err(input)) => panic!("{name} panics (seed {seed}) on {}", shown(&input)),
            Err(error) => {
                let (count, input) = current.lock().map(|current| current.clone()).unwrap_or_default();
                assert!(error == mpsc::RecvTimeoutError::Timeout, "{name}: the thread is gone");
                assert!(count != before, "{name} hangs (seed {seed}) on {}", shown(&input));
                before = count;
            }
        }
    }
}

/// How many inputs were tried, or the one that panicked.
fn run(parse: Parse, samples: Vec<Vec<u8>>, seed: u64, current: &Mutex<(u64, Vec<u8>)>) -> Result<u64, Vec<u8>> {
    let (mut mutator, mut seen) = (Mutator::new(samples, seed), HashSet::new());
    let end = Instant::now() + duration();
    for tried in 0.. {
        let input = mutator.next();
        if let Ok(mut current) = current.lock() {
            *current = (tried, input.clone());
        }
        let answer = catch_unwind(AssertUnwindSafe(|| parse(&input))).map_err(|_| input.clone())?;
        // Numbers and names in messages are not news.
        let kind: String = answer.chars().filter(|c| c.is_alphabetic()).take(48).collect();
        if seen.len() < KEPT_MAX && seen.insert(kind) {
            mutator.keep(input);
        }
        if Instant::now() > end {
            return Ok(tried + 1);
        }
    }
    Ok(0)
}

/// As it can stand between the quotes of a byte string.
fn shown(input: &[u8]) -> String {
    format!("b\"{}\"", input.escape_ascii())
}

#[test]
fn a_panic_names_its_input() {
    let bad: Parse = |input| if input.contains(&b'!') { panic!("as it should") } else { String::new() };
    let current = Mutex::default();
    let input = run(bad, vec![b"a!".to_vec()], 7, &current).unwrap_err();
    assert!(input.contains(&b'!') && shown(&input).contains('!'));
}
