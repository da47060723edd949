//! New inputs from old ones.

/// Bytes of the longest input.
const LENGTH_MAX: usize = 16 * 1024;
/// Changes of one input.
const CHANGES_MAX: usize = 6;
/// Numbers at which things turn over.
const EDGES: [&[u8]; 10] = [
    b"0",
    b"-1",
    b"9223372036854775808",
    b"18446744073709551616",
    b"1e999",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\x7f\xff\xff\xff",
    b"\xf0\x9f\x92\xa9",
    b"\r\n",
];

/// Makes inputs out of samples.
#[derive(Debug)]
pub(super) struct Mutator {
    samples: Vec<Vec<u8>>,
    /// How many of them were given out unchanged.
    first: usize,
    state: u64,
}

impl Mutator {
    pub(super) fn new(samples: Vec<Vec<u8>>, seed: u64) -> Self {
        Self { samples, first: 0, state: seed }
    }

    pub(super) fn keep(&mut self, input: Vec<u8>) {
        self.samples.push(input);
    }

    /// splitmix64
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below a bound; zero for zero.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random() % bound.max(1) as u64).unwrap_or_default()
    }

    /// The samples as they are, then changed ones.
    pub(super) fn next(&mut self) -> Vec<u8> {
        if let Some(sample) = self.samples.get(self.first) {
            self.first += 1;
            return sample.clone();
        }
        let mut input = self.sample();
        for _ in 0..=self.below(CHANGES_MAX) {
            self.change(&mut input);
        }
        input.truncate(LENGTH_MAX);
        input
    }

    fn sample(&mut self) -> Vec<u8> {
        let index = self.below(self.samples.len());
        self.samples.get(index).cloned().unwrap_or_default()
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let until = (at + 1 + self.below(16)).min(input.len());
        let range = at.min(until)..until;
        match self.below(8) {
            0 => {
                let bit = 1 << self.below(8);
                input.get_mut(at).into_iter().for_each(|byte| *byte ^= bit);
            }
            1 => {
                let byte = self.random().to_le_bytes()[0];
                input.get_mut(at).into_iter().for_each(|old| *old = byte);
            }
            2 => drop(input.drain(range)),
            3 => {
                let piece = input[range].to_vec();
                let times = 1 << self.below(6);
                drop(input.splice(at..at, piece.repeat(times)));
            }
            4 => {
                let edge = EDGES[self.below(EDGES.len())];
                drop(input.splice(range, edge.iter().copied()));
            }
            5 => {
                let other = self.sample();
                let from = self.below(other.len() + 1);
                let until = (from + self.below(64)).min(other.len());
                drop(input.splice(at..at, other[from..until].iter().copied()));
            }
            6 => {
                let other = self.sample();
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => input.truncate(at),
        }
    }
}

#[test]
fn the_same_seed_makes_the_same_inputs() {
    let made = |seed| {
        let mut mutator = Mutator::new(vec![b"sample one".to_vec(), b"two".to_vec()], seed);
        (0..100).map(|_| mutator.next()).collect::<Vec<_>>()
    };
    assert_eq!(made(1), made(1));
    assert_ne!(made(1), made(2));
    assert_eq!(made(3)[..2], [b"sample one".to_vec(), b"two".to_vec()]);
}
