//! The end of the daemon and of the host, and what comes after.

use std::net::{IpAddr, Ipv4Addr};

use super::world::{Item, ProcState, World};
use crate::pod::event::{Boot, Observed, ObservedState, SandboxReady};
use crate::pod::machine::Machine;
use crate::pod::timer::Instant;

impl World {
    /// The daemon dies and comes back: answers under way are lost, actions under way are executed or not. With a new boot
    /// everything that ran is gone and the monotonic clock starts anew.
    pub fn crash(&mut self, boot: Boot) {
        let written = serde_json::to_string(&self.machine.snapshot()).unwrap_or_default();
        let queue = std::mem::take(&mut self.queue);
        for ((at, sequence), item) in queue {
            match item {
                Item::Die { .. } => {
                    self.queue.insert((at, sequence), item);
                }
                Item::Execute(action) => {
                    if self.random.chance(1, 2) {
                        self.execute(action);
                    }
                }
                Item::Deliver(_) => {}
            }
        }
        self.queue.retain(|_, item| matches!(item, Item::Die { .. }));
        if boot == Boot::New {
            self.reboot();
        }
        let state = |state: &ProcState| match state {
            ProcState::Created => ObservedState::Created,
            ProcState::Running { started } => ObservedState::Running { started: *started },
            ProcState::Exited(exit) => ObservedState::Exited(exit.clone()),
        };
        let ready = |attempt: u32| SandboxReady {
            ips: vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(attempt % 200 + 2).unwrap_or(2)))],
        };
        let observed = Observed {
            sandbox: self.sandbox.map(|attempt| (attempt, ready(attempt))),
            containers: self.procs.values().map(|proc| (proc.instance, state(&proc.state))).collect(),
        };
        let adopted = serde_json::from_str(&written).map_err(|e| e.to_string()).and_then(|snapshot| {
            Machine::adopt(self.machine.spec().clone(), snapshot, observed, boot, self.now).map_err(|e| e.to_string())
        });
        match adopted {
            Ok(machine) => {
                #[cfg(test)]
                let mutant = self.machine.mutant;
                self.machine = machine;
                #[cfg(test)]
                {
                    self.machine.mutant = mutant;
                }
            }
            Err(error) => debug_assert!(false, "adopt: {error}"),
        }
        self.drain();
    }

    fn reboot(&mut self) {
        self.queue.clear();
        self.order.clear();
        self.sandbox = None;
        self.volumes = false;
        self.removed.extend(self.procs.keys());
        self.procs.clear();
        self.now.mono = Instant(5_000_000_000);
        self.now.wall.0 += 30_000_000_000;
    }
}
