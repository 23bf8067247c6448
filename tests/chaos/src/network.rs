//! A network of the run's own: each host is a network namespace on one bridge, the *hub*, and packets between two of them can be
//! dropped, in one direction or both, so that connections hang as they do when a cable is pulled.
//!
//! ```text
//! namespace of a process ── veth ──┐
//! namespace of a process ── veth ──┤ bridge `hub`: proxies and whoever judges have its addresses
//! namespace of a process ── veth ──┘
//! ```
//!
//! The hub is in a network namespace, and `/run/netns` in a mount namespace, that the run was started in ([`enter`]): all of it goes
//! with the last process. Commands do the work: `ip`, `nft`, `tc`.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use geminga_harness::Host;
use serde_json::Value;

/// Set for the process that was started in namespaces of its own.
const ENTERED: &str = "GEMINGA_CHAOS_HUB";
/// What is dropped is decided here. Sets are filled while the run goes on; their elements count packets.
const RULES: &str = "
table bridge chaos {
    set gone { type ipv4_addr; counter; }
    set apart { type ipv4_addr . ipv4_addr; counter; }
    set lossy { type ipv4_addr; }
    counter lost { }
    chain judge {
        ip saddr @gone drop
        ip daddr @gone drop
        ip saddr . ip daddr @apart drop
        ip saddr @lossy numgen random mod 100 < 25 counter name lost drop
        ip daddr @lossy numgen random mod 100 < 25 counter name lost drop
    }
    chain between { type filter hook forward priority 0; jump judge; }
    chain inwards { type filter hook input priority 0; jump judge; }
    chain outwards { type filter hook output priority 0; jump judge; }
}
";
/// What a host may send that has little bandwidth.
const NARROW: &[&str] = &["tbf", "rate", "200kbit", "burst", "2kb", "latency", "300ms"];
/// How long packets of a host take that are late.
const LATE: &[&str] = &["netem", "delay", "60ms", "50ms"];

/// From here to there.
pub(crate) type Way = (Ipv4Addr, Ipv4Addr);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Network {
    hosts: u8,
    fronts: u8,
    /// Whether the kernel has netem.
    pub(crate) netem: bool,
}

/// Why there can be no network of the run's own here; `None`: there can.
pub fn missing() -> Option<String> {
    if std::env::var_os(ENTERED).is_some() {
        return None;
    }
    let tried = "ip link add hub type bridge && nft add table bridge chaos && tc -V";
    let error = run(&["unshare", "--net", "--mount", "sh", "-c", tried]).err()?;
    Some(format!("{error:#}").lines().last().unwrap_or_default().to_owned())
}

/// Starts this program again, in namespaces of its own. Returns only when that cannot be done, or nothing when it is there already.
///
/// # Errors
/// When it cannot be started.
pub fn enter() -> Result<()> {
    if std::env::var_os(ENTERED).is_some() {
        return Ok(());
    }
    let program = std::env::current_exe().context("this program's file")?;
    let error = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(ENTERED, "1")
        .exec();
    Err(error).context("unshare")
}

impl Network {
    /// Makes the hub. `None` where this process did not [`enter`].
    ///
    /// # Errors
    /// When a command fails.
    pub(crate) fn new() -> Result<Option<Self>> {
        if std::env::var_os(ENTERED).is_none() {
            return Ok(None);
        }
        std::fs::create_dir_all("/run/netns").context("/run/netns")?;
        let commands: [&[&str]; 5] = [
            // Names of this run only.
            &["mount", "-t", "tmpfs", "tmpfs", "/run/netns"],
            &["ip", "link", "set", "lo", "up"],
            &["ip", "link", "add", "hub", "type", "bridge"],
            &["ip", "link", "set", "hub", "up"],
            &["ip", "address", "add", &format!("{}/16", hub(0)), "dev", "hub"],
        ];
        commands.iter().try_for_each(|command| run(command).map(drop))?;
        feed(&["nft", "-f", "-"], RULES)?;
        let netem = ["add", "del"]
            .iter()
            .all(|what| run(&[&["tc", "qdisc", what, "dev", "lo", "root"], LATE].concat()).is_ok());
        Ok(Some(Self { hosts: 0, fronts: 0, netem }))
    }

    /// A namespace with an address of its own.
    ///
    /// # Errors
    /// When a command fails.
    pub(crate) fn host(&mut self, name: &str) -> Result<Host> {
        self.hosts = self.hosts.checked_add(1).context("no address is left")?;
        let ip = Ipv4Addr::new(10, 77, 0, self.hosts);
        let (outer, address) = (format!("veth{}", self.hosts), format!("{ip}/16"));
        let commands: [&[&str]; 6] = [
            &["ip", "netns", "add", name],
            &["ip", "link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", name],
            &["ip", "link", "set", &outer, "master", "hub", "up"],
            &["ip", "-n", name, "address", "add", &address, "dev", "eth0"],
            &["ip", "-n", name, "link", "set", "eth0", "up"],
            &["ip", "-n", name, "link", "set", "lo", "up"],
        ];
        commands.iter().try_for_each(|command| run(command).map(drop))?;
        Ok(Host::within(name, ip))
    }

    /// One more address of the hub, for what stands in front of a host.
    ///
    /// # Errors
    /// When a command fails.
    pub(crate) fn front(&mut self) -> Result<Ipv4Addr> {
        self.fronts = self.fronts.checked_add(1).context("no address is left")?;
        let ip = hub(self.fronts);
        run(&["ip", "address", "add", &format!("{ip}/16"), "dev", "hub"])?;
        Ok(ip)
    }

    /// From now on nothing goes these ways.
    pub(crate) fn part(&self, ways: &[Way]) -> Result<()> {
        change("add", "apart", &elements(ways))
    }

    /// Everything goes these ways again. How many packets did not.
    pub(crate) fn join(&self, ways: &[Way]) -> Result<u64> {
        let dropped = counted("apart", |value| {
            let ends = value["concat"].as_array().map(Vec::as_slice);
            let ends = ends.and_then(|ends| match ends {
                [from, to] => Some((address(from)?, address(to)?)),
                _ => None,
            });
            ends.is_some_and(|way| ways.contains(&way))
        })?;
        change("delete", "apart", &elements(ways))?;
        Ok(dropped)
    }

    /// From now on nothing comes from this host or gets there.
    pub(crate) fn vanish(&self, host: &Host) -> Result<()> {
        change("add", "gone", &host.ip().to_string())
    }

    /// The host is there again. How many packets were dropped.
    pub(crate) fn appear(&self, host: &Host) -> Result<u64> {
        let dropped = counted("gone", |value| address(value) == Some(host.ip()))?;
        change("delete", "gone", &host.ip().to_string())?;
        Ok(dropped)
    }

    /// From now on a quarter of what comes from this host or goes there is dropped.
    pub(crate) fn lose(&self, host: &Host) -> Result<()> {
        change("add", "lossy", &host.ip().to_string())
    }

    /// Nothing is lost any more at this host.
    pub(crate) fn keep(&self, host: &Host) -> Result<()> {
        change("delete", "lossy", &host.ip().to_string())
    }

    /// How many packets were lost by [`Network::lose`] since the start, of all hosts.
    pub(crate) fn lost(&self) -> Result<u64> {
        let listed = run(&["nft", "-j", "list", "counter", "bridge", "chaos", "lost"])?;
        let listed: Value = serde_json::from_str(&listed).context("nft prints JSON")?;
        let counters = listed["nftables"].as_array().into_iter().flatten();
        Ok(counters.filter_map(|item| item["counter"]["packets"].as_u64()).sum())
    }

    /// Lets what a host sends wait for bandwidth.
    pub(crate) fn narrow(&self, host: &Host) -> Result<()> {
        shape(host, NARROW)
    }

    /// Lets what a host sends take longer, and be overtaken.
    pub(crate) fn delay(&self, host: &Host) -> Result<()> {
        shape(host, LATE)
    }

    /// Lets a host send as it likes. How many packets had to wait, or were sent late.
    pub(crate) fn widen(&self, host: &Host) -> Result<u64> {
        let namespace = host.namespace().context("a host of this network")?;
        let shown = run(&["tc", "-j", "-s", "-n", namespace, "qdisc", "show", "dev", "eth0"])?;
        let shown: Value = serde_json::from_str(&shown).context("tc prints JSON")?;
        let count = |name: &str| shown[0][name].as_u64().unwrap_or(0);
        let held = match shown[0]["kind"].as_str() {
            Some("netem") => count("packets"),
            Some("tbf") => count("overlimits") + count("drops"),
            other => bail!("{namespace} sends by {other:?}"),
        };
        run(&["tc", "-n", namespace, "qdisc", "del", "dev", "eth0", "root"])?;
        Ok(held)
    }
}

/// The addresses of the hub.
fn hub(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 1, number)
}

fn shape(host: &Host, how: &[&str]) -> Result<()> {
    let namespace = host.namespace().context("a host of this network")?;
    let command = ["tc", "-n", namespace, "qdisc", "add", "dev", "eth0", "root"];
    run(&[&command, how].concat()).map(drop)
}

fn elements(ways: &[Way]) -> String {
    let ways: Vec<String> = ways.iter().map(|(from, to)| format!("{from} . {to}")).collect();
    ways.join(", ")
}

fn change(verb: &str, set: &str, elements: &str) -> Result<()> {
    run(&["nft", verb, "element", "bridge", "chaos", set, &format!("{{ {elements} }}")]).map(drop)
}

fn address(value: &Value) -> Option<Ipv4Addr> {
    value.as_str()?.parse().ok()
}

/// How many packets the elements of a set dropped that `wanted` names.
fn counted(set: &str, wanted: impl Fn(&Value) -> bool) -> Result<u64> {
    let listed = run(&["nft", "-j", "list", "set", "bridge", "chaos", set])?;
    let listed: Value = serde_json::from_str(&listed).context("nft prints JSON")?;
    let sets = listed["nftables"].as_array().into_iter().flatten();
    let elements = sets.filter_map(|item| item["set"]["elem"].as_array()).flatten();
    let elements = elements.filter(|element| wanted(&element["elem"]["val"]));
    Ok(elements.filter_map(|element| element["elem"]["counter"]["packets"].as_u64()).sum())
}

/// Runs a command; what it prints.
fn run(command: &[&str]) -> Result<String> {
    feed(command, "")
}

fn feed(command: &[&str], input: &str) -> Result<String> {
    let (program, args) = command.split_first().context("a command has a name")?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{program} cannot be run"))?;
    // Dropped at once: nobody waits for more. One that reads nothing may have ended.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| command.join(" "))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure!(output.status.success(), "{}: {}", command.join(" "), text(&output.stderr));
    Ok(text(&output.stdout))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    /// Runs the test of this name again in namespaces of its own, and `body` there.
    fn within_namespaces(name: &str, body: impl FnOnce(Network)) {
        if let Some(why) = missing() {
            println!("not run: {why}");
            return;
        }
        if let Some(network) = Network::new().unwrap() {
            return body(network);
        }
        let status = Command::new("unshare")
            .args(["--net", "--mount", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &format!("network::tests::{name}"), "--nocapture"])
            .env(ENTERED, "1")
            .status();
        assert!(status.unwrap().success());
    }

    /// Sends so many packets from the host to `to`.
    fn send(host: &Host, to: &UdpSocket, count: u32) {
        let to = to.local_addr().unwrap();
        let script = format!(
            "for i in $(seq {count}); do echo x > /dev/udp/{}/{}; done",
            to.ip(),
            to.port()
        );
        let command = ["ip", "netns", "exec", host.namespace().unwrap(), "bash", "-c", &script];
        run(&command).unwrap();
    }

    /// How many packets arrived, once none comes any more.
    fn arrived(at: &UdpSocket) -> u64 {
        let mut byte = [0; 8];
        std::iter::from_fn(|| at.recv(&mut byte).ok()).count() as u64
    }

    /// How many packets came to the host for nobody.
    fn strays(host: &Host) -> u64 {
        let command = ["ip", "netns", "exec", host.namespace().unwrap(), "cat", "/proc/net/snmp"];
        let shown = run(&command).unwrap();
        let udp: Vec<&str> = shown.lines().filter(|line| line.starts_with("Udp: ")).collect();
        udp[1].split(' ').nth(2).unwrap().parse().unwrap()
    }

    #[test]
    fn packets_are_dropped_the_way_that_is_asked_for_and_counted() {
        within_namespaces(
            "packets_are_dropped_the_way_that_is_asked_for_and_counted",
            |mut network| {
                let hub = UdpSocket::bind((network.front().unwrap(), 0)).unwrap();
                hub.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                let ip = hub.local_addr().unwrap().ip().to_string().parse().unwrap();
                let (host, other) = (network.host("one").unwrap(), network.host("two").unwrap());
                let back =
                    |count: u32| (0..count).for_each(|_| drop(hub.send_to(b"x", (host.ip(), 9))));
                send(&host, &hub, 2);
                assert_eq!(arrived(&hub), 2);

                // One way: what comes from the other side arrives, and so does what others send.
                network.part(&[(host.ip(), ip)]).unwrap();
                let before = strays(&host);
                send(&host, &hub, 3);
                send(&other, &hub, 1);
                back(2);
                assert_eq!((arrived(&hub), strays(&host) - before), (1, 2));
                // And two that say that nobody listens.
                assert_eq!(network.join(&[(host.ip(), ip)]).unwrap(), 3 + 2);

                network.vanish(&host).unwrap();
                let before = strays(&host);
                send(&host, &hub, 1);
                back(1);
                assert_eq!((arrived(&hub), strays(&host) - before), (0, 0));
                assert_eq!(network.appear(&host).unwrap(), 2);

                network.lose(&host).unwrap();
                send(&host, &hub, 80);
                let lost = network.lost().unwrap();
                network.keep(&host).unwrap();
                assert!(lost > 0 && arrived(&hub) + lost == 80, "{lost} lost");

                network.narrow(&host).unwrap();
                send(&host, &hub, 200);
                assert!(network.widen(&host).unwrap() > 0);
                arrived(&hub);
                send(&host, &hub, 5);
                assert_eq!((arrived(&hub), network.lost().unwrap()), (5, lost));
            },
        );
    }
}
