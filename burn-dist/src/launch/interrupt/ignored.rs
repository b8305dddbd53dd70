//! Signals that were ignored when the program began, as a hang-up under `nohup`. xtask shares this file.

use signal_hook::consts::SIGHUP;

/// Those of the signals that this process does not ignore. Where the system does not say, a hang-up is left as it is.
pub(super) fn heeded<const N: usize>(signals: [i32; N]) -> impl Iterator<Item = i32> {
    let ignored = mask();
    signals.into_iter().filter(move |signal| match ignored {
        Some(ignored) => ignored & (1 << (signal - 1)) == 0,
        None => *signal != SIGHUP,
    })
}

/// The ignored signals of this process, signal 1 as the lowest bit.
fn mask() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}
