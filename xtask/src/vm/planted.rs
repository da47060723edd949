//! Faults that the harness has to find, and how a run names them.

/// Longest a test may take in such a run; the planted hang waits for it.
pub const TEST_SECONDS: u64 = 5;

/// What tells these tests from all others.
pub const FILTER: &str = "vm_planted::";

/// The test and the words that its report holds.
pub const FAULTS: &[(&str, &str)] = &[
    ("vm_planted::a_failure", "one is not two"),
    ("vm_planted::a_panic", "a planted panic"),
    ("vm_planted::a_hang", "hang: ended after 5s"),
    ("vm_planted::a_leaked_process", "process"),
    ("vm_planted::a_leaked_mount", "mount /run/planted-mount"),
    ("vm_planted::a_leaked_cgroup", "cgroup /planted"),
    ("vm_planted::a_leaked_link", "link planted0"),
    ("vm_planted::a_leaked_file", "file /tmp/planted-file"),
    ("vm_planted::a_leaked_table", "nft table planted"),
];

/// Faults that the run's output does not name.
pub fn missed(output: &str) -> Vec<String> {
    let missing =
        FAULTS.iter().filter(|(test, words)| !report(output, test).is_some_and(|report| report.contains(words)));
    missing.map(|(test, words)| format!("{test}: {words}")).collect()
}

/// What the run printed about a test that failed.
fn report<'a>(output: &'a str, test: &str) -> Option<&'a str> {
    let (_, rest) = output.split_once(&format!("test {test} ... FAILED"))?;
    Some(rest.split("\ntest ").next().unwrap_or(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_counts_only_in_its_own_report() {
        let output = "test vm_planted::a_failure ... FAILED (3 ms)\nError: one is not two\n\n\
            test vm_planted::a_panic ... ok (1 ms)\ntest vm_planted::a_leaked_link ... FAILED (2 ms)\nother\n\
            test x ... FAILED\nlink planted0\n";
        let missed = missed(output);
        assert_eq!(missed.len(), FAULTS.len() - 1);
        assert!(missed.iter().all(|line| !line.starts_with("vm_planted::a_failure")));
    }
}
