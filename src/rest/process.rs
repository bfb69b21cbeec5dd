//! Prometheus metrics of the process, with the names that all client libraries use (`process_…`).

use std::{fs, sync::atomic::AtomicU64};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::{Registry, Unit},
};

/// Ticks per second in the kernel's interface: fixed on Linux, whatever the kernel's own tick is.
const TICKS: f64 = 100.0;

/// Constant values, read once.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProcessMetrics {
    /// Seconds since the epoch.
    started_at: Option<f64>,
}

impl Default for ProcessMetrics {
    fn default() -> Self {
        let booted = read("/proc/stat").and_then(|text| number_after(&text, "btime "));
        let started_at = booted.zip(Times::now()).map(|(booted, times)| booted + times.start);
        Self { started_at }
    }
}

/// In seconds; the start counts from the system's boot.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Times {
    processor: f64,
    start: f64,
}

impl Times {
    fn now() -> Option<Self> {
        Self::read(&read("/proc/self/stat")?)
    }

    /// Fields 14, 15 and 22 of proc(5); the second field, in brackets, may contain anything.
    fn read(stat: &str) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        Some(Self { processor: (ticks(14)? + ticks(15)?) / TICKS, start: ticks(22)? / TICKS })
    }
}

impl ProcessMetrics {
    /// All current values; those that the system does not provide are absent.
    pub(super) fn registry(self) -> Registry {
        let mut registry = Registry::with_prefix("process");
        let mut gauge = |name: &str, help: &str, unit: Option<Unit>, value: Option<f64>| {
            let Some(value) = value else { return };
            let gauge = Gauge::<f64, AtomicU64>::default();
            gauge.set(value);
            match unit {
                Some(unit) => registry.register_with_unit(name, help, unit, gauge),
                None => registry.register(name, help, gauge),
            }
        };
        let status = read("/proc/self/status");
        let resident = status.and_then(|text| number_after(&text, "VmRSS:"));
        let resident = resident.map(|kilobytes| kilobytes * 1024.0);
        gauge("resident_memory", "Memory in use", Some(Unit::Bytes), resident);
        let open = fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64);
        gauge("open_fds", "Open files", None, open);
        let limits = read("/proc/self/limits");
        let most = limits.and_then(|text| number_after(&text, "Max open files"));
        gauge("max_fds", "Files that may be open", None, most);
        let started = "When the process started, since the epoch";
        gauge("start_time", started, Some(Unit::Seconds), self.started_at);
        if let Some(times) = Times::now() {
            let processor = Counter::<f64, AtomicU64>::default();
            processor.inc_by(times.processor);
            registry.register_with_unit("cpu", "Processor time", Unit::Seconds, processor);
        }
        registry
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The number on the line with this start.
fn number_after(text: &str, start: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(start))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let mut fields = vec!["1 (a) b) S".to_owned()];
        fields.extend((4..30).map(|n| (n * 100).to_string()));
        let times = Times::read(&fields.join(" ")).unwrap();
        assert_eq!(times, Times { processor: 29.0, start: 22.0 });
        assert_eq!(Times::read("1 (x) S 1"), None);
    }

    #[test]
    fn the_usual_names_are_there() {
        let text = crate::telemetry::encode(&[&ProcessMetrics::default().registry()]).unwrap();
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_start_time_seconds",
        ] {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            assert!(line.trim().parse::<f64>().unwrap() >= 0.0, "{name}{line}");
        }
    }
}
