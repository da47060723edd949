//! Simulation: random pods, operations and faults from a seed, invariants after every step.
//!
//! A run has two phases. In the first everything may happen: answers are late, lost or doubled, calls fail, the daemon
//! dies and comes back, the machine reboots, clocks jump, users change their minds. In the second nothing fails any more:
//! the pod must come to rest within a bounded number of steps, and once it is deleted nothing of it may be left.

pub mod behaviour;
pub mod check;
mod crash;
pub mod pods;
pub mod random;
pub mod world;

use std::fmt;
use std::time::Duration;

use super::container::Run;
use super::event::{Boot, HookSuccess};
use super::machine::{Goal, Machine};
use super::resize::{Reason, Refusal, Verdict};
use super::spec::{ContainerSpec, Index, PullPolicy, Role};
use super::status::{Condition, Truth};
use super::timer::{Instant, Now, WallTime};
use behaviour::{Behaviour, Faults};
use check::{Check, Invariant};
use random::Random;
use world::World;

/// Steps of the first phase.
const UNSAFE_STEPS: u64 = 60;
/// Steps within which a pod comes to rest when nothing fails any more.
const REST_STEPS: usize = 6_000;
/// Steps within which a deleted pod is gone.
const GONE_STEPS: usize = 2_000;

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub seed: u64,
    pub step: u64,
    pub invariant: Invariant,
    pub detail: String,
}

/// A test of one line, ready to be pasted.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, step, invariant, detail } = self;
        write!(
            f,
            "#[test] fn seed_{seed}() {{ assert_eq!(run({seed}), Ok(())); }} // step {step}, {invariant:?}: {detail}"
        )
    }
}

/// Lives through the pod of this seed.
///
/// # Errors
/// The first invariant that was broken.
pub fn run(seed: u64) -> Result<(), Failure> {
    Simulation::new(seed, |_| {}).run()
}

/// The world in which the run of this seed ended, for a person who looks for the cause.
pub fn picture(seed: u64) -> String {
    let mut simulation = Simulation::new(seed, |_| {});
    let result = simulation.run();
    format!("{:#?}\n{result:?}", simulation.world)
}

/// The same with a broken rule.
#[cfg(test)]
pub(super) fn run_mutant(seed: u64, mutant: super::machine::Mutant) -> Result<(), Failure> {
    Simulation::new(seed, |machine| machine.mutant = Some(mutant)).run()
}

struct Simulation {
    seed: u64,
    step: u64,
    world: World,
    check: Check,
    added: bool,
}

impl Simulation {
    fn new(seed: u64, prepare: impl FnOnce(&mut Machine)) -> Self {
        let mut random = Random::new(seed);
        let spec = pods::spec(&mut random);
        let now = Now { mono: Instant(1_000_000_000_000), wall: WallTime(1_767_225_600_000_000_000) };
        let mut machine = Machine::at_rest(spec, now);
        prepare(&mut machine);
        let mut world = World::with(machine, now);
        pods::behaviours(&mut world, &mut random);
        world.faults = pods::faults(&mut random);
        world.random = random;
        world.act(|machine, now| machine.handle_timeout(now));
        let check = Check::new(&world);
        Self { seed, step: 0, world, check, added: false }
    }

    fn failure(&self, (invariant, detail): (Invariant, String)) -> Failure {
        Failure { seed: self.seed, step: self.step, invariant, detail }
    }

    fn run(&mut self) -> Result<(), Failure> {
        self.verify()?;
        let steps = self.world.random.below(UNSAFE_STEPS);
        while self.step < steps {
            if self.world.random.chance(1, 12) {
                self.operate();
            } else {
                self.world.step();
            }
            self.verify()?;
        }
        self.behave_well();
        self.until(REST_STEPS, Self::rests, "the pod does not come to rest")?;
        let grace = self.world.random.below(6);
        self.delete(grace);
        self.verify()?;
        self.until(GONE_STEPS, |own| own.world.machine.is_gone(), "the deleted pod does not go")?;
        self.check.nothing_left(&self.world).map_err(|broken| self.failure(broken))
    }

    fn verify(&mut self) -> Result<(), Failure> {
        self.step += 1;
        self.check.after_step(&mut self.world).map_err(|broken| self.failure(broken))
    }

    fn until(&mut self, steps: usize, done: impl Fn(&Self) -> bool, complaint: &str) -> Result<(), Failure> {
        for _ in 0..steps {
            if done(self) {
                return Ok(());
            }
            if !self.world.step() {
                break;
            }
            self.verify()?;
        }
        let status = self.world.machine.status();
        let detail = format!("{complaint}: {:?}, {:?}", self.world.machine.state.goal, status.phase);
        if done(self) { Ok(()) } else { Err(self.failure((Invariant::Rest, detail))) }
    }

    /// Every container that is to run does and is ready, or the pod has ended.
    fn rests(&self) -> bool {
        let machine = &self.world.machine;
        if machine.is_finished() {
            return true;
        }
        let living = self.world.procs.values().filter(|proc| matches!(proc.state, world::ProcState::Running { .. }));
        let known = machine.state.containers.iter().filter(|c| c.is_running());
        if living.count() != known.count() {
            return false;
        }
        let is_resized = self.world.procs.values().all(|proc| {
            let has = self.world.amounts.get(&proc.instance.serial);
            let spec = machine.spec.get(proc.instance.container);
            !matches!(proc.state, world::ProcState::Running { .. })
                || has.zip(spec).is_some_and(|(has, spec)| *has == spec.resources)
        });
        if !is_resized || machine.state.resize.progress.is_some() {
            return false;
        }
        let pairs = machine.spec.containers.iter().zip(&machine.state.containers).enumerate();
        machine.state.goal == Goal::Run
            && pairs.into_iter().all(|(index, (spec, container))| match spec.role {
                Role::Init => container.done,
                Role::Sidecar => machine.shows_ready(index),
                Role::App => machine.shows_ready(index) || (container.run == Run::Absent && !machine.wants(index)),
                Role::Ephemeral => container.is_running() || !container.dead.is_empty() || waits_for_target(container),
            })
    }

    fn behave_well(&mut self) {
        let world = &mut self.world;
        world.faults = Faults { delay_max: Duration::from_millis(5), ..Faults::default() };
        world.probes.clear();
        world.probe_takes = Duration::ZERO;
        world.image.clear();
        world.hook = (Duration::from_millis(10), Ok(HookSuccess { http_fallback: None }));
        let names: Vec<(String, Role)> =
            world.machine.spec().containers.iter().map(|c| (c.name.clone(), c.role)).collect();
        for (name, role) in names {
            let behaviour = match role {
                Role::Init => Behaviour::ends(Duration::from_secs(1), 0),
                Role::Sidecar | Role::App | Role::Ephemeral => Behaviour::FOREVER,
            };
            world.behaviours.insert(name, vec![behaviour]);
        }
    }

    fn delete(&mut self, seconds: u64) {
        let grace = Duration::from_secs(seconds);
        self.check.pod_kill(self.world.now.mono, super::grace::of_pod(grace));
        self.world.act(|machine, now| machine.delete(grace, now));
    }

    fn some_container(&mut self) -> Index {
        let count = self.world.machine.spec().containers.len() as u64;
        Index(u16::try_from(self.world.random.below(count)).unwrap_or(0))
    }

    /// Something that users, operators or the world do.
    fn operate(&mut self) {
        match self.world.random.below(16) {
            0 => {
                let grace = self.world.random.below(12);
                self.delete(grace);
            }
            1 if self.world.random.chance(1, 3) => {
                let grace = Duration::from_secs(self.world.random.below(5));
                self.check.pod_kill(self.world.now.mono, super::grace::of_pod(grace));
                self.world.act(|machine, now| machine.fail("Evicted", "low", Some(grace), now));
            }
            2 => {
                let (index, image) = (self.some_container(), format!("image{}", self.world.random.below(3)));
                self.world.act(|machine, now| machine.set_image(index, &image, PullPolicy::Always, 2, now));
            }
            3 if !self.added => self.add_ephemeral(),
            4 => self.set_condition(),
            5 if self.world.random.chance(1, 3) => {
                let span = Duration::from_secs(self.world.random.below(600) + 1);
                self.world.act(|machine, now| machine.set_deadline(span, 3, now));
            }
            6 | 7 => {
                let monitor = self.world.random.chance(1, 2);
                self.world.lose_sandbox(monitor);
            }
            8 | 9 => self.world.crash(Boot::Same),
            10 if self.world.random.chance(1, 2) => self.world.crash(Boot::New),
            11 => {
                let jump = i64::try_from(self.world.random.below(7_200_000_000_000)).unwrap_or(0);
                self.world.now.wall.0 += jump - 3_600_000_000_000;
            }
            12 => {
                let span = Duration::from_secs(self.world.random.below(700));
                let to = self.world.now.mono.after(span);
                self.world.advance(to);
                self.world.act(|machine, now| machine.handle_timeout(now));
            }
            13 | 14 => self.resize(),
            _ => self.world.act(|machine, now| machine.handle_timeout(now)),
        }
    }

    /// A container gets something else, or does not get it.
    fn resize(&mut self) {
        let index = self.some_container();
        let mut wanted = self.world.machine.spec().clone();
        if let Some(own) = wanted.containers.get_mut(usize::from(index.0)).filter(|own| own.role != Role::Ephemeral) {
            let resource = if self.world.random.chance(1, 2) { "cpu" } else { "memory" };
            let amount = (self.world.random.below(3) + 1).to_string();
            own.resources.requests.insert(resource.to_owned(), amount);
        }
        let verdict = if self.world.random.chance(3, 4) {
            Verdict::Allocated
        } else {
            Verdict::Refused(Refusal { reason: Reason::Deferred, word: "OutOfcpu", message: "full".to_owned() })
        };
        self.world.act(|machine, now| machine.resize(&wanted, &verdict, now));
    }

    fn add_ephemeral(&mut self) {
        self.added = true;
        let mut debug = ContainerSpec::new("debug", Role::Ephemeral, "image9");
        if self.world.random.chance(1, 2) {
            debug.target = self.world.machine.spec().containers.first().map(|c| c.name.clone());
        }
        self.world.act(|machine, now| machine.add_ephemeral(debug, 2, now));
    }

    fn set_condition(&mut self) {
        let status = if self.world.random.chance(1, 2) { Truth::True } else { Truth::False };
        let condition = Condition {
            kind: "example.com/gate".to_owned(),
            status,
            reason: None,
            message: None,
            last_transition: self.world.now.wall,
            observed_generation: 0,
        };
        self.world.act(|machine, now| machine.set_condition(condition, now));
    }
}

/// The container that it wants to join may never come to be (EP5).
fn waits_for_target(container: &super::container::Container) -> bool {
    container.waiting.as_ref().is_some_and(|waiting| waiting.message.starts_with("unable to find target"))
}

#[cfg(test)]
mod tests {
    use super::super::machine::Mutant;
    use super::*;

    /// Seeds that every test run lives through; CI runs many more (`cargo xtask sim`).
    const SEEDS: u64 = 300;

    #[test]
    fn invariants_hold() {
        let failures: Vec<String> = (0..SEEDS).filter_map(|seed| run(seed).err()).map(|f| f.to_string()).collect();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }

    /// Each invariant finds the machine that breaks it.
    #[test]
    fn every_broken_rule_is_found_by_its_invariant() {
        for (mutant, invariant) in [
            (Mutant::StartBesideLiving, Invariant::OneLiving),
            (Mutant::SkipInit, Invariant::StartOrder),
            (Mutant::PassHook, Invariant::StartOrder),
            (Mutant::RepeatHook, Invariant::HookOnce),
            (Mutant::KillEarly, Invariant::Grace),
            (Mutant::ForgetOrder, Invariant::StopOrder),
            (Mutant::ForgetPhase, Invariant::FinalPhase),
            (Mutant::ForgetAttempts, Invariant::Counts),
            (Mutant::KeepSandbox, Invariant::AllEnded),
            (Mutant::LoseRetry, Invariant::Rest),
            (Mutant::ReadyTooEarly, Invariant::Truth),
        ] {
            let found = (0..2000).find_map(|seed| run_mutant(seed, mutant).err().filter(|f| f.invariant == invariant));
            assert!(found.is_some(), "{invariant:?} does not find {mutant:?}");
        }
    }

    #[test]
    fn a_failure_prints_as_a_test() {
        let failure = Failure { seed: 7, step: 3, invariant: Invariant::Rest, detail: "why".to_owned() };
        assert_eq!(failure.to_string(), "#[test] fn seed_7() { assert_eq!(run(7), Ok(())); } // step 3, Rest: why");
    }
}
