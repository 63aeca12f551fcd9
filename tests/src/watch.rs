//! Where a guest that there is to be only one of really runs, seen on every host of a cluster all the time.
//!
//! A front door would hand the question on to whichever host has it. So each host is asked from within, at the address where a guest that
//! listens does so: whoever answers there runs there.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use crate::Cluster;

/// Between two looks at a host.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a guest may take to say something.
const LIMIT: Duration = Duration::from_millis(200);

/// A guest that has answered: at some moment between the two it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Its number in [`Cluster::hosts`].
    pub host: usize,
    /// Where it listens, which tells it from those before it on its host.
    pub port: u16,
    pub asked: Instant,
    pub answered: Instant,
}

/// A span in which a host stood still, and for a moment after which nobody can hold it to anything.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    pub host: usize,
    pub from: Instant,
    pub until: Instant,
}

/// Looks at every host that the cluster has at the start, until it is told to stop.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    looking: Vec<JoinHandle<Vec<Sight>>>,
}

impl Watch {
    /// For the guest that begins each connection with this text.
    pub fn start(cluster: &Cluster, greeting: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let hosts = cluster.hosts.iter().enumerate();
        let looking = hosts.map(|(host, it)| {
            let (network, stop) = (it.namespace(), stop.clone());
            std::thread::spawn(move || {
                // Of this thread only.
                setns(network, CloneFlags::CLONE_NEWNET).unwrap();
                let mut sights = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    look(host, greeting, &mut sights);
                    std::thread::sleep(PAUSE);
                }
                sights
            })
        });
        Self { looking: looking.collect(), stop }
    }

    /// All that was seen, but for what was seen in these spans.
    pub fn stop(mut self, stalls: &[Stall]) -> Vec<Sight> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sights: Vec<Sight> =
            self.looking.drain(..).flat_map(|looking| looking.join().unwrap()).collect();
        sights.retain(|sight| !stalls.iter().any(|stall| stall.touches(sight)));
        sights
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Stall {
    fn touches(&self, sight: &Sight) -> bool {
        self.host == sight.host && sight.asked <= self.until && self.from <= sight.answered
    }
}

/// A sight of one guest that lies between two of another: then both ran, as none comes back. None: each had its time.
pub fn seen_beside_another(sights: &[Sight]) -> Option<(Sight, [Sight; 2])> {
    let mut guests: BTreeMap<(usize, u16), [Sight; 2]> = BTreeMap::new();
    for sight in sights {
        let [first, last] = guests.entry((sight.host, sight.port)).or_insert([*sight; 2]);
        if sight.answered < first.answered {
            *first = *sight;
        }
        if sight.asked > last.asked {
            *last = *sight;
        }
    }
    let beside = |sight: &Sight| {
        let others = guests.iter().filter(|(guest, _)| **guest != (sight.host, sight.port));
        others
            .map(|(_, ends)| *ends)
            .find(|[first, last]| first.answered <= sight.asked && sight.answered <= last.asked)
    };
    sights.iter().find_map(|sight| Some((*sight, beside(sight)?)))
}

fn look(host: usize, greeting: &str, sights: &mut Vec<Sight>) {
    for port in listening() {
        let asked = Instant::now();
        if greets(port, greeting).is_some() {
            sights.push(Sight { host, port, asked, answered: Instant::now() });
        }
    }
}

/// The ports of 127.0.0.1 at which somebody listens in the network of this thread, as proc(5) has them.
fn listening() -> Vec<u16> {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let port = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let port = fields.next()?.strip_prefix("0100007F:")?;
        if fields.nth(1)? != "0A" {
            return None;
        }
        u16::from_str_radix(port, 16).ok()
    };
    sockets.lines().filter_map(port).collect()
}

fn greets(port: u16, greeting: &str) -> Option<()> {
    let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), LIMIT).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    let mut said = vec![0; greeting.len()];
    stream.read_exact(&mut said).ok()?;
    (said == greeting.as_bytes()).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_after_the_other_is_told_from_two_at_once() {
        let begin = Instant::now();
        let sight = |host: usize, asked: u64| {
            let asked = begin + Duration::from_millis(asked);
            Sight { host, port: 40_000, asked, answered: asked + Duration::from_millis(10) }
        };
        let handed_over = [sight(0, 0), sight(0, 100), sight(1, 105), sight(1, 200), sight(2, 300)];
        assert_eq!(
            seen_beside_another(&handed_over),
            None,
            "the end of one and the begin of the next may touch"
        );
        let twice = [sight(0, 0), sight(1, 50), sight(0, 100)];
        assert_eq!(seen_beside_another(&twice), Some((sight(1, 50), [sight(0, 0), sight(0, 100)])));
        let back = [sight(0, 0), sight(0, 100), sight(1, 200), sight(1, 300), sight(0, 400)];
        assert!(seen_beside_another(&back).is_some(), "one that was given up answers again");
    }

    #[test]
    fn what_was_seen_while_a_host_stood_still_does_not_count() {
        let begin = Instant::now();
        let at = |millis: u64| begin + Duration::from_millis(millis);
        let stall = Stall { host: 1, from: at(100), until: at(200) };
        let sight = |host, asked, answered| Sight { host, port: 1, asked: at(asked), answered: at(answered) };
        assert!(stall.touches(&sight(1, 50, 100)) && stall.touches(&sight(1, 150, 160)));
        assert!(stall.touches(&sight(1, 200, 210)) && stall.touches(&sight(1, 0, 300)));
        assert!(!stall.touches(&sight(1, 50, 99)) && !stall.touches(&sight(1, 201, 210)));
        assert!(!stall.touches(&sight(0, 150, 160)));
    }
}
