//! Power cuts and kills at every step of random work (F02, F04 in small): nothing that was acknowledged is lost.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::super::file::{self, Place};
use super::super::state::{Queued, State};
use super::sim::{Random, SimDisk};
use super::*;

const SEEDS: u64 = 12;
/// Lives of a store one after the other, each ended by a kill or a cut.
const LIVES: usize = 3;
const TURNS: usize = 10;
/// What is tried at each point: different things survive.
const CUTS_PER_POSITION: usize = 2;

/// A state that an object was in, or was to be in.
#[derive(Debug, Clone)]
struct Past {
    /// None once it is deleted.
    text: Option<String>,
    durability: Durability,
    /// Points of the disk's work: when it was asked for, and when it was acknowledged.
    asked: usize,
    told: usize,
}

/// Everything that was acknowledged in one life.
#[derive(Debug, Clone, Default)]
struct Ledger {
    pasts: BTreeMap<Key, Vec<Past>>,
    /// Versions that somebody has seen, and since when.
    seen: Vec<(usize, Version)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Kill,
    Cut,
}

impl Ledger {
    /// The states that an object may be in after an end at this point.
    fn allowed(&self, key: &Key, position: usize, end: End) -> Vec<Past> {
        let absent = Past { text: None, durability: Durability::Disk, asked: 0, told: 0 };
        let known = self.pasts.get(key).into_iter().flatten().filter(|past| past.asked <= position);
        let mut states: Vec<_> = [absent].into_iter().chain(known.cloned()).collect();
        let certain = |past: &Past| past.told <= position && (end == End::Kill || past.durability == Durability::Disk);
        let last = states.iter().rposition(certain).unwrap();
        states.split_off(last)
    }

    fn seen_at(&self, position: usize) -> Version {
        self.seen
            .iter()
            .filter(|(since, _)| *since <= position)
            .map(|(_, version)| *version)
            .max()
            .unwrap_or(Version(0))
    }

    /// What a new life knows of the one before.
    fn next(&self, state: &State, position: usize) -> Self {
        let mut pasts = BTreeMap::new();
        for key in self.pasts.keys() {
            let stored = state.objects.get(key);
            let mut states = self.allowed(key, position, End::Cut);
            let text = stored.map(|stored| stored.object.text.to_string());
            let found = states.iter().rposition(|past| past.text == text).unwrap();
            states.truncate(found + 1);
            // What only late files say may be lost again; what a main file says, or nobody, may not.
            if !stored.is_some_and(|stored| stored.files.has(Place::Late0) || stored.files.has(Place::Late1)) {
                states.drain(..found);
            }
            for (index, past) in states.iter_mut().enumerate() {
                past.durability = if index == 0 { Durability::Disk } else { Durability::Kernel };
                (past.asked, past.told) = (0, 0);
            }
            pasts.insert(key.clone(), states);
        }
        Self { pasts, seen: vec![(0, state.version)] }
    }
}

fn keys() -> Vec<Key> {
    let names = [("pods", "a", "x"), ("pods", "a", "y"), ("pods", "b", "x"), ("nodes", "", "n"), ("events", "c", "e")];
    names.into_iter().map(|(resource, namespace, name)| Key::new(resource, namespace, name)).collect()
}

fn random_change(random: &mut Random, number: usize) -> (Change, Durability) {
    let keys = keys();
    let key = &keys[random.below(keys.len())];
    let text = format!("{number} {}", "x".repeat(random.below(40)));
    let change = match random.below(10) {
        0..4 => create(key, &text),
        4..8 => update(key, &text),
        _ => delete(key),
    };
    (change, if random.chance(50) { Durability::Disk } else { Durability::Kernel })
}

/// Writes one batch, as the writing thread does.
pub(super) fn turn(state: &mut State) -> bool {
    let Some((batch, mut writer)) = state.take() else { return false };
    let written = writer.write(&batch);
    state.finish(batch, writer, written);
    true
}

pub(super) fn ask(
    state: &mut State,
    change: Change,
    durability: Durability,
) -> oneshot::Receiver<Result<Object, StoreError>> {
    let (answer, result) = oneshot::channel();
    let bytes = super::super::measure(&change).unwrap();
    state.queue(Queued { change, bytes, durability, answer });
    result
}

pub(super) fn start(disk: &SimDisk) -> (State, Vec<Damaged>) {
    State::open(Box::new(disk.clone()), Path::new("")).unwrap()
}

/// Random changes in random groups.
fn work(disk: &SimDisk, state: &mut State, ledger: &mut Ledger, random: &mut Random) {
    for round in 0..TURNS {
        let mut waiting = Vec::new();
        for number in 0..=random.below(6) {
            let (change, durability) = random_change(random, round * 10 + number);
            let deleted = matches!(change, Change::Delete { .. });
            let asked = disk.position();
            waiting.push((asked, durability, deleted, ask(state, change, durability)));
        }
        while turn(state) {}
        let told = disk.position();
        for (asked, durability, deleted, mut result) in waiting {
            let Ok(object) = result.try_recv().unwrap() else { continue };
            ledger.seen.push((told, object.version));
            let text = (!deleted).then(|| object.text.to_string());
            let past = Past { text, durability, asked, told };
            ledger.pasts.entry(object.key).or_default().push(past);
        }
        assert_eq!(state.version, ledger.seen_at(told));
    }
}

/// Opens what is left, and compares it with what was acknowledged.
fn check(left: &SimDisk, ledger: &Ledger, position: usize, end: End) -> State {
    let (state, damaged) = start(left);
    for key in keys() {
        let found = state.objects.get(&key).map(|stored| (stored.object.version, stored.object.text.to_string()));
        let allowed = ledger.allowed(&key, position, end);
        let fits = |past: &Past| found.as_ref().map(|(_, text)| text) == past.text.as_ref();
        assert!(
            allowed.iter().any(fits),
            "{key} after {end:?} at {position}: {found:#?}, not {allowed:#?}; {damaged:#?}"
        );
    }
    assert!(state.objects.keys().all(|key| keys().contains(key)));
    assert!(state.version >= ledger.seen_at(position), "{} {}", state.version, ledger.seen_at(position));
    for damaged in damaged {
        let name = damaged.path.file_name().unwrap().to_str().unwrap();
        let is_leftover = matches!(file::classify(name), file::Name::Temporary(_));
        let is_late = matches!(file::classify(name), file::Name::Object { place: Place::Late0 | Place::Late1, .. });
        assert!(is_leftover || (is_late && end == End::Cut), "after {end:?} at {position}: {damaged}");
    }
    state
}

/// A life's end: what was acknowledged before it, how much had been done, and how it came.
#[derive(Clone)]
struct Last {
    ledger: Ledger,
    position: usize,
    end: End,
}

impl Last {
    /// The same, once the next start ends before it has begun to serve.
    fn then(&self, end: End) -> End {
        if self.end == End::Cut { End::Cut } else { end }
    }
}

/// Ends a life at each point of it. Returns how often.
fn end_everywhere(
    disk: &SimDisk,
    begin: usize,
    first: usize,
    last: &Last,
    ledger: &Ledger,
    random: &mut Random,
) -> usize {
    let check_one = |left: &SimDisk, position: usize, end: End| {
        if position < first {
            check(left, &last.ledger, last.position, last.then(end));
        } else {
            check(left, ledger, position, end);
        }
    };
    for position in begin..=disk.position() {
        check_one(&disk.killed_at(position), position, End::Kill);
        for _ in 0..CUTS_PER_POSITION {
            check_one(&disk.cut_at(position, random), position, End::Cut);
        }
    }
    (disk.position() + 1 - begin) * (CUTS_PER_POSITION + 1)
}

#[test]
fn no_power_cut_and_no_kill_loses_what_was_acknowledged() {
    let mut ends = 0;
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let mut disk = SimDisk::default();
        let mut ledger = Ledger::default();
        let mut last = Last { ledger: ledger.clone(), position: 0, end: End::Cut };
        for _ in 0..LIVES {
            let begin = disk.position();
            let (mut state, _) = start(&disk);
            let first = disk.position();
            ledger.seen.push((first, state.version));
            work(&disk, &mut state, &mut ledger, &mut random);
            ends += end_everywhere(&disk, begin, first, &last, &ledger, &mut random);
            let position = first + random.below(disk.position() - first + 1);
            let (end, left) = match random.chance(50) {
                true => (End::Kill, disk.killed_at(position)),
                false => (End::Cut, disk.cut_at(position, &mut random)),
            };
            let state = check(&left.copy(), &ledger, position, end);
            let next = ledger.next(&state, position);
            last = Last { ledger: std::mem::replace(&mut ledger, next), position, end };
            disk = left;
        }
    }
    assert!(ends >= 300, "{ends}");
    println!("{ends} ends");
}
