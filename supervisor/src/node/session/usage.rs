//! What containers use, from their cgroups.

use std::time::Duration;

use cgroupd::parse::CpuStat;
use tokio::time::Instant;

use super::super::context::{Context, Known};
use super::super::stats::memory_of;
use super::Sessions;

/// Over at least this long is measured how much CPU is used.
const WINDOW: Duration = Duration::from_millis(100);

/// What a container uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    pub container: String,
    /// Thousand-millionths of a CPU, over the window.
    pub cpu_nanos: u64,
    /// Bytes of the working set; 0 where the host does not account memory.
    pub memory_bytes: u64,
    /// CPU time since the container's start, in microseconds.
    pub cpu_usec: u64,
}

/// CPU time in microseconds and memory in bytes; what can't be read is 0.
fn sample(context: &Context, known: &Known) -> (u64, u64) {
    let read = |file: &str| context.engine.read_cgroup(&known.sandbox, &known.id, file).ok();
    let cpu = read("cpu.stat").and_then(|text| CpuStat::parse(&text).ok()).map_or(0, |stat| stat.usage_usec);
    (cpu, memory_of(read).unwrap_or(0))
}

impl Sessions {
    /// The containers of a pod that run, measured over a short window.
    pub async fn usage(&self, uid: &str) -> Vec<Usage> {
        let Ok(context) = self.context(uid) else { return Vec::new() };
        let running = context.container_names().into_iter().filter_map(|name| {
            let found = self.running(uid, &name).ok()?;
            Some((name, found.known))
        });
        let running: Vec<(String, Known)> = running.collect();
        let before: Vec<u64> = running.iter().map(|(_, known)| sample(&context, known).0).collect();
        let begin = Instant::now();
        tokio::time::sleep(WINDOW).await;
        let window = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
        let usage = |((container, known), before): ((String, Known), u64)| {
            let (cpu_usec, memory_bytes) = sample(&context, &known);
            let cpu_nanos = cpu_usec.saturating_sub(before).saturating_mul(1_000_000_000) / window;
            Usage { container, cpu_nanos, memory_bytes, cpu_usec }
        };
        running.into_iter().zip(before).map(usage).collect()
    }
}
