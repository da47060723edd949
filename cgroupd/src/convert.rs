//! CPU amounts as cgroup v2 values and back (rules CG1-CG4, CG14).
//!
//! One conversion at every level, so that 1 CPU is always weight 100, the kernel's default. The reference implementation uses
//! a linear one (CG2) for pods, in which 1 CPU is 39 and everything below 25m is 1.

use std::fmt;

/// Thousandths of a CPU.
pub type MilliCpu = u64;

/// `cpu.shares` of one CPU, the unit in which cgroup v1 counted.
const SHARES_PER_CPU: u64 = 1024;
/// The smallest `cpu.shares`: what a container without a CPU request gets.
const SHARES_MIN: u64 = 2;
const SHARES_MAX: u64 = 262_144;
const WEIGHT_MIN: u64 = 1;
const WEIGHT_MAX: u64 = 10_000;
/// Period of `cpu.max` in microseconds.
pub const CPU_PERIOD_US: u64 = 100_000;
/// The smallest quota the kernel takes, in microseconds: limits below 10m behave as 10m.
const QUOTA_MIN_US: u64 = 1_000;

/// A cgroup limit; `max` is the kernel's word for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    Value(u64),
    /// Last, so that no limit compares as the largest one.
    Max,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "{value}"),
            Self::Max => f.write_str("max"),
        }
    }
}

/// CG1.
#[must_use]
pub fn shares(cpu: MilliCpu) -> u64 {
    (cpu.saturating_mul(SHARES_PER_CPU) / 1000).clamp(SHARES_MIN, SHARES_MAX)
}

/// `cpu.weight` of an amount of CPU (CG3): 1 CPU is 100, nothing is 1.
#[must_use]
pub fn weight(cpu: MilliCpu) -> u64 {
    weight_of_shares(shares(cpu))
}

/// The curve through (2, 1), (1024, 100) and (262144, 10000). Written over one divisor, it is exact at those points.
#[expect(clippy::cast_precision_loss, reason = "shares end at 2^18")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the result lies within 1..=10000")]
fn weight_of_shares(shares: u64) -> u64 {
    if shares <= SHARES_MIN {
        return WEIGHT_MIN;
    }
    if shares >= SHARES_MAX {
        return WEIGHT_MAX;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log - 126.0) / 612.0;
    10_f64.powf(exponent).ceil() as u64
}

/// Quota of `cpu.max` in microseconds per [`CPU_PERIOD_US`] (CG4); no limit or a limit of 0 is `max`.
#[must_use]
pub fn quota_us(limit: Option<MilliCpu>) -> Limit {
    match limit {
        None | Some(0) => Limit::Max,
        Some(cpu) => Limit::Value(cpu.saturating_mul(CPU_PERIOD_US / 1000).max(QUOTA_MIN_US)),
    }
}

/// The smallest amount of CPU with this `cpu.weight`: the inverse of [`weight`] for a status (CG14).
///
/// Several amounts share a weight; a caller that knows the amount it asked for reports that one when
/// `weight(asked) == weight`.
#[must_use]
pub fn milli_cpu_of_weight(weight_read: u64) -> MilliCpu {
    let (mut low, mut high) = (0, SHARES_MAX * 1000 / SHARES_PER_CPU);
    while low < high {
        let middle = low.midpoint(high);
        if weight(middle) < weight_read {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// CG14: `milli from quota = quota * 1000 / period`; None for `max`.
#[must_use]
pub fn milli_cpu_of_quota(quota_us: Limit, period_us: u64) -> Option<MilliCpu> {
    match quota_us {
        Limit::Max => None,
        Limit::Value(quota) => quota.saturating_mul(1000).checked_div(period_us),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of section 5.6.
    const VECTORS: [(MilliCpu, u64, u64, Limit); 17] = [
        (0, 2, 1, Limit::Max),
        (1, 2, 1, Limit::Value(1_000)),
        (10, 10, 4, Limit::Value(1_000)),
        (25, 25, 6, Limit::Value(2_500)),
        (50, 51, 11, Limit::Value(5_000)),
        (100, 102, 17, Limit::Value(10_000)),
        (200, 204, 29, Limit::Value(20_000)),
        (250, 256, 35, Limit::Value(25_000)),
        (500, 512, 59, Limit::Value(50_000)),
        (1_000, 1_024, 100, Limit::Value(100_000)),
        (1_500, 1_536, 138, Limit::Value(150_000)),
        (2_000, 2_048, 174, Limit::Value(200_000)),
        (4_000, 4_096, 303, Limit::Value(400_000)),
        (8_000, 8_192, 532, Limit::Value(800_000)),
        (16_000, 16_384, 942, Limit::Value(1_600_000)),
        (64_000, 65_536, 3_023, Limit::Value(6_400_000)),
        (256_000, 262_144, 10_000, Limit::Value(25_600_000)),
    ];

    /// CG1, CG3, CG4.
    #[test]
    fn an_amount_of_cpu_has_its_shares_weight_and_quota() {
        for (cpu, expected_shares, expected_weight, expected_quota) in VECTORS {
            assert_eq!(shares(cpu), expected_shares, "{cpu}m");
            assert_eq!(weight(cpu), expected_weight, "{cpu}m");
            assert_eq!(quota_us(Some(cpu)), expected_quota, "{cpu}m");
        }
    }

    #[test]
    fn amounts_without_end_stay_within_the_kernels_range() {
        assert_eq!(weight(u64::MAX), WEIGHT_MAX);
        assert_eq!(quota_us(Some(u64::MAX)), Limit::Value(u64::MAX));
        assert_eq!(quota_us(None), Limit::Max);
        assert!(
            (0..300_000).all(|cpu| (WEIGHT_MIN..=WEIGHT_MAX).contains(&weight(cpu)) && weight(cpu) <= weight(cpu + 1))
        );
    }

    /// CG14.
    #[test]
    fn a_weight_converts_back_to_an_amount_with_that_weight() {
        for (cpu, _, expected_weight, _) in VECTORS {
            let back = milli_cpu_of_weight(expected_weight);
            assert!(back <= cpu, "{cpu}m came back as {back}m");
            assert_eq!(weight(back), expected_weight, "{cpu}m");
        }
        assert_eq!(milli_cpu_of_quota(Limit::Value(50_000), CPU_PERIOD_US), Some(500));
        assert_eq!(milli_cpu_of_quota(Limit::Max, CPU_PERIOD_US), None);
        assert_eq!(milli_cpu_of_quota(Limit::Value(1), 0), None);
    }
}
