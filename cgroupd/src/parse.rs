//! Readers of the kernel's cgroup files, from text (cgroup-v2.rst).

use crate::convert::Limit;

/// A file's content that is not what the kernel writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("{file}: no key {key}")]
    MissingKey { file: &'static str, key: &'static str },
    #[error("{file}: unexpected line {line:?}")]
    UnexpectedLine { file: &'static str, line: String },
}

/// Value of `key` in a file of `key value` lines; keys that this kernel does not have are None.
fn keyed(file: &'static str, text: &str, key: &str) -> Result<Option<u64>, ParseError> {
    let mut values = text.lines().filter_map(|line| line.split_once(' ').filter(|(name, _)| *name == key));
    match values.next() {
        None => Ok(None),
        Some((_, value)) => value.trim().parse().map(Some).map_err(|_| unexpected(file, &format!("{key} {value}"))),
    }
}

fn required(file: &'static str, text: &str, key: &'static str) -> Result<u64, ParseError> {
    keyed(file, text, key)?.ok_or(ParseError::MissingKey { file, key })
}

/// Longest piece of a line that an error repeats.
const SHOWN_LINE_MAX: usize = 80;

fn unexpected(file: &'static str, line: &str) -> ParseError {
    ParseError::UnexpectedLine { file, line: line.chars().take(SHOWN_LINE_MAX).collect() }
}

/// `memory.events`: counters since the cgroup was made, its children included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    pub low: u64,
    pub high: u64,
    pub max: u64,
    pub oom: u64,
    /// Processes killed by any kind of OOM killer.
    pub oom_kill: u64,
    /// Group kills (`memory.oom.group`); 0 on kernels before 5.17, which do not count them.
    pub oom_group_kill: u64,
}

impl MemoryEvents {
    /// # Errors
    /// When a key that every kernel with cgroup v2 writes is missing or no number.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        const FILE: &str = "memory.events";
        Ok(Self {
            low: required(FILE, text, "low")?,
            high: required(FILE, text, "high")?,
            max: required(FILE, text, "max")?,
            oom: required(FILE, text, "oom")?,
            oom_kill: required(FILE, text, "oom_kill")?,
            oom_group_kill: keyed(FILE, text, "oom_group_kill")?.unwrap_or(0),
        })
    }

    /// The OOM verdict (OM1): whether the kernel's OOM killer ended a process of this cgroup since `before` was read.
    #[must_use]
    pub fn oom_killed_since(&self, before: &Self) -> bool {
        self.oom_kill > before.oom_kill || self.oom_group_kill > before.oom_group_kill
    }
}

/// The keys of `memory.stat` that somebody uses, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStat {
    pub anon: u64,
    pub file: u64,
    pub shmem: u64,
    pub inactive_file: u64,
    /// Page faults (count).
    pub pgfault: u64,
    /// Page faults that needed the disk (count).
    pub pgmajfault: u64,
}

impl MemoryStat {
    /// # Errors
    /// When a key is missing or no number.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let value = |key| required("memory.stat", text, key);
        Ok(Self {
            anon: value("anon")?,
            file: value("file")?,
            shmem: value("shmem")?,
            inactive_file: value("inactive_file")?,
            pgfault: value("pgfault")?,
            pgmajfault: value("pgmajfault")?,
        })
    }
}

/// EV8: memory in use that the kernel cannot simply drop, in bytes.
#[must_use]
pub fn working_set(memory_current: u64, stat: &MemoryStat) -> u64 {
    memory_current.saturating_sub(stat.inactive_file)
}

/// `cpu.stat`; the throttling keys are 0 without the cpu controller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuStat {
    pub usage_usec: u64,
    pub user_usec: u64,
    pub system_usec: u64,
    pub nr_periods: u64,
    pub nr_throttled: u64,
    pub throttled_usec: u64,
}

impl CpuStat {
    /// # Errors
    /// When a key that is there without any controller is missing, or a value is no number.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        const FILE: &str = "cpu.stat";
        let with_controller = |key| keyed(FILE, text, key).map(|value| value.unwrap_or(0));
        Ok(Self {
            usage_usec: required(FILE, text, "usage_usec")?,
            user_usec: required(FILE, text, "user_usec")?,
            system_usec: required(FILE, text, "system_usec")?,
            nr_periods: with_controller("nr_periods")?,
            nr_throttled: with_controller("nr_throttled")?,
            throttled_usec: with_controller("throttled_usec")?,
        })
    }
}

/// `cgroup.events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupEvents {
    /// A live process is in it or below it; zombies do not count.
    pub populated: bool,
    pub frozen: bool,
}

impl CgroupEvents {
    /// # Errors
    /// When `populated` is missing, or a value is no number.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        const FILE: &str = "cgroup.events";
        Ok(Self {
            populated: required(FILE, text, "populated")? != 0,
            frozen: keyed(FILE, text, "frozen")?.unwrap_or(0) != 0,
        })
    }
}

/// A file with a single number, such as `pids.current` or `memory.current`.
///
/// # Errors
/// When it is no number.
pub fn number(file: &'static str, text: &str) -> Result<u64, ParseError> {
    text.trim().parse().map_err(|_| unexpected(file, text))
}

/// A file with a number or `max`, such as `memory.max`.
///
/// # Errors
/// When it is neither.
pub fn limit(file: &'static str, text: &str) -> Result<Limit, ParseError> {
    match text.trim() {
        "max" => Ok(Limit::Max),
        value => number(file, value).map(Limit::Value),
    }
}

/// `cpu.max`: quota and period in microseconds.
///
/// # Errors
/// When it is not two words of that kind.
pub fn cpu_max(text: &str) -> Result<(Limit, u64), ParseError> {
    const FILE: &str = "cpu.max";
    let (quota, period) = text.trim().split_once(' ').ok_or_else(|| unexpected(FILE, text))?;
    Ok((limit(FILE, quota)?, number(FILE, period)?))
}

/// `cgroup.procs`.
///
/// # Errors
/// When a line is no number.
pub fn procs(text: &str) -> Result<Vec<i32>, ParseError> {
    text.lines().map(|line| line.parse().map_err(|_| unexpected("cgroup.procs", line))).collect()
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Percent of the last 10 seconds in which somebody waited.
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total_usec: u64,
}

/// `cpu.pressure`, `memory.pressure`, `io.pressure`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// At least one process waited.
    pub some: Stall,
    /// All waited; not written for the cpu of the root before kernel 5.13.
    pub full: Option<Stall>,
}

impl Pressure {
    /// # Errors
    /// When a line is not as Documentation/accounting/psi.rst has it.
    pub fn parse(file: &'static str, text: &str) -> Result<Self, ParseError> {
        let stall = |kind: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(kind));
            line.map(|line| parse_stall(line).ok_or_else(|| unexpected(file, line))).transpose()
        };
        let some = stall("some ")?.ok_or(ParseError::MissingKey { file, key: "some" })?;
        Ok(Self { some, full: stall("full ")? })
    }
}

fn parse_stall(line: &str) -> Option<Stall> {
    let value = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    Some(Stall {
        avg10: value("avg10")?.parse().ok()?,
        avg60: value("avg60")?.parse().ok()?,
        avg300: value("avg300")?.parse().ok()?,
        total_usec: value("total")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str = "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 1\n";

    #[test]
    fn memory_events_are_read_with_and_without_new_keys() {
        let events = MemoryEvents::parse(EVENTS).expect("new kernel");
        let expected = MemoryEvents { low: 0, high: 1, max: 2, oom: 3, oom_kill: 4, oom_group_kill: 1 };
        assert_eq!(events, expected);
        let old = EVENTS.replace("oom_group_kill 1\n", "");
        assert_eq!(MemoryEvents::parse(&old).expect("old kernel").oom_group_kill, 0);
        let missing = ParseError::MissingKey { file: "memory.events", key: "oom" };
        assert_eq!(MemoryEvents::parse("low 0\nhigh 1\nmax 2\noom_kill 4"), Err(missing));
        let bad = MemoryEvents::parse("low many").expect_err("no number");
        assert_eq!(bad.to_string(), r#"memory.events: unexpected line "low many""#);
    }

    /// OM1: hitting the limit is no kill.
    #[test]
    fn the_verdict_is_a_kill_between_two_readings() {
        let before = MemoryEvents::parse(EVENTS).expect("events");
        let after = |change: fn(&mut MemoryEvents)| {
            let mut after = before;
            change(&mut after);
            after.oom_killed_since(&before)
        };
        assert!(!after(|_| ()));
        assert!(!after(|events| events.oom += 1));
        assert!(after(|events| events.oom_kill += 1));
        assert!(after(|events| events.oom_group_kill += 1));
    }

    /// EV8.
    #[test]
    fn the_working_set_leaves_out_what_can_be_dropped() {
        let text = "anon 10\nfile 20\nshmem 3\ninactive_file 15\npgfault 7\npgmajfault 1\n";
        let stat = MemoryStat::parse(text).expect("stat");
        assert_eq!(working_set(40, &stat), 25);
        assert_eq!(working_set(10, &stat), 0, "two files are never read at the same moment");
    }

    #[test]
    fn cpu_stat_needs_no_controller() {
        let stat = CpuStat::parse("usage_usec 5\nuser_usec 3\nsystem_usec 2\n").expect("without");
        assert_eq!((stat.usage_usec, stat.nr_throttled), (5, 0));
        let stat = CpuStat::parse(
            "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 9\nnr_throttled 4\nthrottled_usec 8\n",
        );
        assert_eq!(stat.expect("with").nr_throttled, 4);
    }

    #[test]
    fn single_values_are_read() {
        let events = CgroupEvents::parse("populated 1\nfrozen 0\n");
        assert_eq!(events, Ok(CgroupEvents { populated: true, frozen: false }));
        assert_eq!(number("pids.current", "12\n"), Ok(12));
        assert_eq!(limit("memory.max", "max\n"), Ok(Limit::Max));
        assert_eq!(limit("memory.max", "4096\n"), Ok(Limit::Value(4096)));
        assert!(limit("memory.max", "most\n").is_err());
        assert_eq!(cpu_max("50000 100000\n"), Ok((Limit::Value(50_000), 100_000)));
        assert!(cpu_max("max\n").is_err());
        assert_eq!(procs("1\n22\n"), Ok(vec![1, 22]));
    }

    #[test]
    fn pressure_is_read() {
        let text = "some avg10=0.12 avg60=1.00 avg300=0.00 total=123\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let pressure = Pressure::parse("memory.pressure", text).expect("pressure");
        assert_eq!((pressure.some.avg10, pressure.some.total_usec), (0.12, 123));
        assert_eq!(pressure.full.map(|full| full.total_usec), Some(7));
        assert!(Pressure::parse("memory.pressure", "some avg10=x").is_err());
        assert!(Pressure::parse("memory.pressure", "").is_err());
    }
}
