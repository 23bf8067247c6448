//! Metrics of every server process. `version` is that of the program. What the kernel says of it is in text, since counters of the
//! library are whole numbers and seconds of processors are not.

use std::fmt::Write;

use geminga_runtime::{SystemClock, WallClock};
use metrics::gauge;

/// In these parts of a second `/proc` counts time, on every machine that Linux runs on today.
const TICKS: f64 = 100.0;

/// The process has begun: since when it runs, in seconds since the Unix epoch, and which version. To be called once.
pub(super) fn started() {
    gauge!("process_start_time_seconds").set(SystemClock.now_ms() as f64 / 1000.0);
    gauge!("geminga_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// What `/readyz` says now.
pub(super) fn observe_ready(ready: bool) {
    gauge!("geminga_ready").set(f64::from(u8::from(ready)));
}

/// What the kernel says of the process now, as Prometheus reads it. What it does not say is left out.
pub(super) fn used() -> String {
    let mut text = String::new();
    let mut told = |head: &str, value: Option<f64>| {
        if let Some(value) = value {
            let name = head.split(' ').nth(2).unwrap_or_default();
            // Writing to a string does not fail.
            let _ = writeln!(text, "{head}\n{name} {value}");
        }
    };
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).ok();
    let open = std::fs::read_dir("/proc/self/fd").ok();
    told("# TYPE process_cpu_seconds_total counter", read("stat").as_deref().and_then(cpu_seconds));
    told(
        "# TYPE process_resident_memory_bytes gauge",
        read("status").as_deref().and_then(resident_bytes),
    );
    // One of them is for looking.
    told("# TYPE process_open_fds gauge", open.map(|open| open.count().saturating_sub(1) as f64));
    told("# TYPE process_max_fds gauge", read("limits").as_deref().and_then(most_files));
    text
}

/// Out of `/proc/self/stat`: the twelfth and thirteenth number behind the name, which may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut numbers = rest.split_whitespace().skip(11);
    let (own, kernel): (f64, f64) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    Some((own + kernel) / TICKS)
}

/// Out of `/proc/self/status`.
fn resident_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

/// Out of `/proc/self/limits`: the one in force; none is none.
fn most_files(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        let stat = "42 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0 9 0 1 2 3";
        assert_eq!(cpu_seconds(stat), Some(4.0));
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    2 kB\n"), Some(2048.0));
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files\n";
        assert_eq!(most_files(limits), Some(1024.0));
        assert_eq!(most_files("Max open files  unlimited  unlimited  files\n"), None);
        assert_eq!((cpu_seconds(""), resident_bytes("")), (None, None));
    }

    #[test]
    fn this_process_is_told_of() {
        let text = used();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse::<f64>().ok())
                .unwrap_or_else(|| panic!("{text}"))
        };
        assert!(value("process_cpu_seconds_total ") >= 0.0);
        assert!(value("process_resident_memory_bytes ") > 1_000_000.0);
        let open = value("process_open_fds ");
        assert!(open >= 3.0 && open <= value("process_max_fds "), "{text}");
        assert_eq!(text.lines().count(), 8, "{text}");
    }
}
