//! Two machines, as network namespaces joined by a pair of virtual interfaces: each process has a
//! network and an address of its own, and the link between them can be slow, or go down.
//!
//! Needs root on Linux, and the programs `ip` and `tc`.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The addresses of the two, in networks that nobody else sees.
pub(crate) const ADDRESSES: [&str; 2] = ["10.213.7.1", "10.213.7.2"];

/// Two namespaces and the link between them, which are gone when this is dropped.
pub(crate) struct TwoMachines {
    names: [String; 2],
}

/// Runs a program; gives what it said if it failed.
pub(crate) fn run(program: &str, arguments: &str) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments.split(' '))
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {arguments}: {}", said.trim_end()))
}

impl TwoMachines {
    /// Makes both and their link, which is down; or says why this machine does not let us.
    pub(crate) fn new() -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Relaxed);
        // A name of the system's is 15 letters long at most.
        let name = |end: char| format!("bd{}-{number}{end}", std::process::id());
        run("tc", "-Version")?;
        // From here on it deletes what was made, also where only a part was.
        let machines = Self {
            names: [name('a'), name('b')],
        };
        let [one, two] = &machines.names;
        run("ip", &format!("netns add {one}"))?;
        run("ip", &format!("netns add {two}"))?;
        let pair = format!("link add {one} netns {one} type veth peer name {two} netns {two}");
        run("ip", &pair)?;
        Ok(machines)
    }

    /// Gives both their addresses and brings the link up.
    pub(crate) fn bring_up(&self) -> Result<(), String> {
        for (name, address) in self.names.iter().zip(ADDRESSES) {
            run("ip", &format!("-n {name} addr add {address}/24 dev {name}"))?;
            run("ip", &format!("-n {name} link set {name} up"))?;
            run("ip", &format!("-n {name} link set lo up"))?;
        }
        Ok(())
    }

    /// Lets this rate through, in each direction, and a quarter of a megabyte at once: with less than the
    /// largest packet that TCP hands down the system would cut those in software, which costs the
    /// processors more than a real link does.
    pub(crate) fn limit(&self, rate: &str) -> Result<(), String> {
        self.names.iter().try_for_each(|name| {
            let qdisc = format!("root tbf rate {rate} burst 256kb latency 100ms");
            run("tc", &format!("-n {name} qdisc add dev {name} {qdisc}"))
        })
    }

    /// The names of both: of the namespace, and of the interface in it.
    pub(crate) fn names(&self) -> &[String; 2] {
        &self.names
    }
}

impl Drop for TwoMachines {
    fn drop(&mut self) {
        for name in &self.names {
            // The link goes with them; where the system refused them there is nothing to delete.
            let _ = run("ip", &format!("netns del {name}"));
        }
    }
}
