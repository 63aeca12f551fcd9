//! What breaks in a cluster, and what mends it again: values only, which follow from a number. Whoever has a cluster takes the steps.

use std::time::Duration;

use crate::Weather;

/// How many faults a round has. In each round every one of them comes once.
const CARDS: usize = 15;
const CLOCKS: [&str; 2] = ["+10m", "-10m"];
const WEATHERS: [Weather; 6] = [
    Weather::Slow(Duration::from_millis(150)),
    Weather::Lossy,
    Weather::Silent,
    Weather::SilentUp,
    Weather::SilentDown,
    Weather::Broken,
];

/// A process of the cluster, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Worker(usize),
    Server(usize),
}

/// Something that is the matter for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process is killed, and started again.
    Killed(Role),
    /// It stands still, and goes on.
    Halted(Role),
    /// It is killed and started again with its clock off by so much, and then once more with one that is right.
    Clock(Role, &'static str),
    /// A host's link is down.
    CutOff(usize),
    /// The disk that a worker's folder is on has no room at all.
    DiskFull(usize),
    /// A worker gets SIGTERM, and is started again when it has ended.
    Left(usize),
    /// A host is drained and resumed, with something else the matter all the time.
    Drained(usize, Beside),
    /// The way to a server is bad.
    Way(usize, Weather),
    /// The database is killed, and started again.
    Database,
}

/// What is the matter beside a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    Nothing,
    /// Another host's link is down.
    CutOff(usize),
    ServerKilled(usize),
}

/// What is done to a cluster. Hosts, servers and their workers are named by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// SIGKILL.
    Kill(Role),
    /// Again, with a clock that is off by so much, or right.
    Start(Role, Option<&'static str>),
    /// SIGSTOP.
    Halt(Role),
    /// SIGCONT.
    GoOn(Role),
    /// SIGTERM to a worker.
    Terminate(usize),
    /// Waits until a worker has ended by that.
    HasEnded(usize),
    CutOff(usize),
    Connect(usize),
    Fill(usize),
    Free(usize),
    Drain(usize),
    Resume(usize),
    Way(usize, Weather),
    KillDatabase,
    StartDatabase,
}

impl Fault {
    /// What brings it about.
    pub fn strikes(self) -> Vec<Step> {
        match self {
            Self::Killed(role) => vec![Step::Kill(role)],
            Self::Halted(role) => vec![Step::Halt(role)],
            Self::Clock(role, off_by) => vec![Step::Kill(role), Step::Start(role, Some(off_by))],
            Self::CutOff(host) => vec![Step::CutOff(host)],
            Self::DiskFull(host) => vec![Step::Fill(host)],
            Self::Left(host) => vec![Step::Terminate(host)],
            Self::Drained(host, beside) => {
                let mut steps = beside.fault().map_or_else(Vec::new, Self::strikes);
                steps.push(Step::Drain(host));
                steps
            }
            Self::Way(server, weather) => vec![Step::Way(server, weather)],
            Self::Database => vec![Step::KillDatabase],
        }
    }

    /// What takes it back.
    pub fn cures(self) -> Vec<Step> {
        match self {
            Self::Killed(role) => vec![Step::Start(role, None)],
            Self::Halted(role) => vec![Step::GoOn(role)],
            Self::Clock(role, _) => vec![Step::Kill(role), Step::Start(role, None)],
            Self::CutOff(host) => vec![Step::Connect(host)],
            Self::DiskFull(host) => vec![Step::Free(host)],
            Self::Left(host) => vec![Step::HasEnded(host), Step::Start(Role::Worker(host), None)],
            Self::Drained(host, beside) => {
                // Its share comes back while the other is still the matter.
                let mut steps = vec![Step::Resume(host)];
                steps.extend(beside.fault().into_iter().flat_map(Self::cures));
                steps
            }
            Self::Way(server, _) => vec![Step::Way(server, Weather::Fair)],
            Self::Database => vec![Step::StartDatabase],
        }
    }

    /// How often a host goes without a word: each time may meet a request that is on its way, where one follows the other. Nothing
    /// else may.
    pub fn losses(self) -> usize {
        let is_loss = |step: &Step| {
            matches!(step, Step::Kill(Role::Worker(_)) | Step::Halt(Role::Worker(_)) | Step::CutOff(_))
        };
        self.strikes().iter().chain(&self.cures()).filter(|step| is_loss(step)).count()
    }

    /// Whether it is what an operator does, who looks first whether all are there.
    pub fn is_planned(self) -> bool {
        matches!(self, Self::Left(_) | Self::Drained(..))
    }

    /// The server that is asked meanwhile, of so many: another than the one that is gone or stands still, and the one whose clock is wrong.
    pub fn asked(self, servers: usize) -> usize {
        match self {
            Self::Killed(Role::Server(server))
            | Self::Halted(Role::Server(server))
            | Self::Drained(_, Beside::ServerKilled(server)) => (server + 1) % servers,
            Self::Clock(Role::Server(server), _) => server,
            _ => 0,
        }
    }
}

impl Beside {
    fn fault(self) -> Option<Fault> {
        match self {
            Self::Nothing => None,
            Self::CutOff(host) => Some(Fault::CutOff(host)),
            Self::ServerKilled(server) => Some(Fault::Killed(Role::Server(server))),
        }
    }
}

/// Pseudo-random numbers after Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    pub fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap()
    }
}

/// Faults one after the other, without an end: the same for the same seed, whatever else happens.
#[derive(Debug)]
pub struct Course {
    dice: Dice,
    hosts: usize,
    servers: usize,
    /// What is left of the round, by numbers.
    deck: Vec<usize>,
}

impl Course {
    /// In a cluster with so many hosts, three at least, and servers, two at least.
    pub fn new(seed: u64, hosts: usize, servers: usize) -> Self {
        assert!(hosts >= 3 && servers >= 2, "something has to be there while something else is not");
        Self { dice: Dice::new(seed), hosts, servers, deck: Vec::new() }
    }

    /// The next fault, and how long it lasts.
    pub fn turn(&mut self) -> (Fault, Duration) {
        let fault = self.fault();
        (fault, Duration::from_millis(500 + self.dice.below(7500)))
    }

    /// The first host has the front door that is asked, so its own end is not among the faults. Its disk is, and its drain.
    fn fault(&mut self) -> Fault {
        let card = self.card();
        let dice = &mut self.dice;
        let host = 1 + dice.index(self.hosts - 1);
        let any = dice.index(self.hosts);
        let server = dice.index(self.servers);
        let weather = WEATHERS[dice.index(WEATHERS.len())];
        let off_by = CLOCKS[dice.index(CLOCKS.len())];
        let other = if host == any { 1 + host % (self.hosts - 1) } else { host };
        let cards: [Fault; CARDS] = [
            Fault::Killed(Role::Worker(host)),
            Fault::Killed(Role::Server(server)),
            Fault::Halted(Role::Worker(host)),
            Fault::Halted(Role::Server(server)),
            Fault::Clock(Role::Worker(host), off_by),
            Fault::Clock(Role::Server(server), off_by),
            Fault::CutOff(host),
            Fault::DiskFull(any),
            Fault::Left(host),
            Fault::Drained(any, Beside::Nothing),
            Fault::Drained(any, Beside::CutOff(other)),
            Fault::Drained(any, Beside::ServerKilled(server)),
            Fault::Database,
            // There are many kinds of weather.
            Fault::Way(server, weather),
            Fault::Way(server, weather),
        ];
        cards[card]
    }

    fn card(&mut self) -> usize {
        if self.deck.is_empty() {
            self.deck.extend(0..CARDS);
            for end in (1..CARDS).rev() {
                self.deck.swap(end, self.dice.index(end + 1));
            }
        }
        self.deck.pop().expect("it was filled")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ROUNDS: usize = 200;

    fn turns(seed: u64, count: usize) -> Vec<(Fault, Duration)> {
        let mut course = Course::new(seed, 3, 2);
        (0..count).map(|_| course.turn()).collect()
    }

    /// What is the matter after a step, in words.
    fn take(step: Step, amiss: &mut BTreeSet<String>) {
        let mut becomes = |is_amiss: bool, what: String| match is_amiss {
            true => assert!(amiss.insert(what), "{step:?}: it is so already"),
            false => assert!(amiss.remove(&what), "{step:?}: it is not so"),
        };
        match step {
            Step::Kill(role) => becomes(true, format!("{role:?} does not run")),
            Step::Start(role, off_by) => {
                becomes(false, format!("{role:?} does not run"));
                // The one before it may have had another.
                amiss.remove(&format!("{role:?} has a wrong clock"));
                if off_by.is_some() {
                    amiss.insert(format!("{role:?} has a wrong clock"));
                }
            }
            Step::Halt(role) => becomes(true, format!("{role:?} stands still")),
            Step::GoOn(role) => becomes(false, format!("{role:?} stands still")),
            Step::Terminate(host) => becomes(true, format!("{host} ends")),
            Step::HasEnded(host) => {
                becomes(false, format!("{host} ends"));
                becomes(true, format!("{:?} does not run", Role::Worker(host)));
            }
            Step::CutOff(host) => becomes(true, format!("{host} is cut off")),
            Step::Connect(host) => becomes(false, format!("{host} is cut off")),
            Step::Fill(host) => becomes(true, format!("{host} has no room")),
            Step::Free(host) => becomes(false, format!("{host} has no room")),
            Step::Drain(host) => becomes(true, format!("{host} is drained")),
            Step::Resume(host) => becomes(false, format!("{host} is drained")),
            Step::Way(server, weather) => {
                becomes(weather != Weather::Fair, format!("the way to {server} is bad"));
            }
            Step::KillDatabase => becomes(true, "there is no database".to_owned()),
            Step::StartDatabase => becomes(false, "there is no database".to_owned()),
        }
    }

    #[test]
    fn a_seed_is_one_course_and_another_seed_another() {
        assert_eq!(turns(7, 60), turns(7, 60));
        assert_ne!(turns(7, 60), turns(8, 60));
    }

    #[test]
    fn every_round_has_every_kind() {
        let kind = |fault: &Fault| match fault {
            Fault::Drained(_, beside) => format!("{:?}", std::mem::discriminant(beside)),
            Fault::Killed(role) | Fault::Halted(role) | Fault::Clock(role, _) => {
                format!("{:?} {:?}", std::mem::discriminant(fault), std::mem::discriminant(role))
            }
            _ => format!("{:?}", std::mem::discriminant(fault)),
        };
        for round in turns(3, CARDS * ROUNDS).chunks(CARDS) {
            let once: BTreeSet<String> = round
                .iter()
                .filter(|(fault, _)| !matches!(fault, Fault::Way(..) | Fault::Drained(..)))
                .map(|(fault, _)| kind(fault))
                .collect();
            let drains: BTreeSet<String> = round
                .iter()
                .filter(|(fault, _)| matches!(fault, Fault::Drained(..)))
                .map(|(fault, _)| kind(fault))
                .collect();
            assert_eq!((once.len(), drains.len()), (CARDS - 5, 3), "{round:?}");
        }
    }

    #[test]
    fn what_a_fault_breaks_its_cure_mends_and_nothing_else() {
        for (fault, _) in turns(1, CARDS * ROUNDS) {
            let mut amiss = BTreeSet::new();
            for step in fault.strikes() {
                take(step, &mut amiss);
            }
            assert!(!amiss.is_empty(), "{fault:?} breaks nothing");
            for step in fault.cures() {
                take(step, &mut amiss);
            }
            assert_eq!(amiss, BTreeSet::new(), "{fault:?}");
        }
    }

    #[test]
    fn the_front_door_that_is_asked_and_a_server_stay_and_no_host_is_the_other_one() {
        for (fault, _) in turns(2, CARDS * ROUNDS) {
            let asked = fault.asked(2);
            for step in fault.strikes() {
                let takes_first = match step {
                    Step::Kill(role) | Step::Halt(role) => role == Role::Worker(0),
                    Step::CutOff(host) | Step::Terminate(host) => host == 0,
                    _ => false,
                };
                assert!(!takes_first, "{fault:?}");
            }
            if let Fault::Drained(host, Beside::CutOff(other)) = fault {
                assert_ne!(host, other);
            }
            let takes_asked = |role: Role| role == Role::Server(asked);
            assert!(!matches!(fault, Fault::Killed(role) | Fault::Halted(role) if takes_asked(role)));
            assert!(!matches!(fault, Fault::Drained(_, Beside::ServerKilled(server)) if server == asked));
        }
    }

    #[test]
    fn only_a_host_that_goes_without_a_word_costs_a_request() {
        for (fault, losses) in [
            (Fault::Killed(Role::Worker(1)), 1),
            (Fault::Clock(Role::Worker(1), "+10m"), 2),
            (Fault::Drained(0, Beside::CutOff(1)), 1),
            (Fault::Drained(1, Beside::Nothing), 0),
            (Fault::Drained(1, Beside::ServerKilled(0)), 0),
            (Fault::Left(1), 0),
            (Fault::DiskFull(1), 0),
            (Fault::Clock(Role::Server(0), "-10m"), 0),
            (Fault::Database, 0),
        ] {
            assert_eq!(fault.losses(), losses, "{fault:?}");
        }
    }
}
