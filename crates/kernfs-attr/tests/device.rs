//! Devices, classes and buses: where they are, what leads to them, and what is told of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;

use kernfs::{
    Ack, Caller, Change, Client, Errno, FrontEnd, Manners, Mode, NodeKind, OpenFlags, Severed, Tree,
};
use kernfs_attr::device::{
    Announcement, Device, DeviceBuilder, Environment, Sysfs, UeventAction, Uevents,
};
use kernfs_attr::{Attr, Attributes, DirExt, Removal};

#[derive(Attributes)]
struct Disk {
    #[attr(ro)]
    size: u64,
    #[attr(rw)]
    read_only: Attr<bool>,
}

fn disk() -> Disk {
    Disk { size: 2048, read_only: Attr::new(false) }
}

fn sysfs() -> (Tree, Sysfs, Client) {
    let tree = Tree::builder().manners(Manners::Sysfs).build();
    let sys = Sysfs::new(tree.root()).unwrap();
    let client = tree.client(Caller::OWNER);
    (tree, sys, client)
}

fn read(client: &Client, path: &str) -> Result<String, Errno> {
    client.open(path, OpenFlags::READ)?.read_to_string()
}

fn link(client: &Client, path: &str) -> Result<String, Errno> {
    Ok(String::from_utf8(client.lookup_link(path)?.readlink()?).unwrap())
}

fn write(client: &Client, path: &str, text: &str) -> Result<usize, Errno> {
    client.open(path, OpenFlags::WRITE)?.write(text.as_bytes())
}

/// Takes all events that are there, as `ACTION@DEVPATH`.
fn told(events: &mut Uevents) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(next) = events.try_recv() {
        match next {
            Announcement::Uevent(event) => told.push(event.to_string()),
            Announcement::Resync => told.push("resync".into()),
        }
    }
    told
}

#[test]
fn a_device_of_a_class_is_linked_both_ways() {
    let (tree, sys, client) = sysfs();
    let block = sys.add_class("block").unwrap();
    let sda = sys.device("sda").class(&block).number(8, 0).devtype("disk").register(disk());
    let sda = sda.unwrap();
    assert_eq!(sda.devpath(), "/devices/virtual/block/sda");
    assert_eq!(link(&client, "/class/block/sda").unwrap(), "../../devices/virtual/block/sda");
    let subsystem = "/devices/virtual/block/sda/subsystem";
    assert_eq!(link(&client, subsystem).unwrap(), "../../../../class/block");
    assert_eq!(link(&client, "/dev/block/8:0").unwrap(), "../../devices/virtual/block/sda");
    assert_eq!(read(&client, "/class/block/sda/size").unwrap(), "2048\n");
    assert_eq!(read(&client, "/class/block/sda/dev").unwrap(), "8:0\n");
    let uevent = "MAJOR=8\nMINOR=0\nDEVNAME=sda\nDEVTYPE=disk\n";
    assert_eq!(read(&client, "/class/block/sda/uevent").unwrap(), uevent);
    sda.read_only.set(true);
    let held = client.open("/class/block/sda/read_only", OpenFlags::READ).unwrap();
    assert_eq!(held.read_to_string().unwrap(), "1\n");
    let sda: Disk = sda.remove().unwrap();
    assert!(sda.read_only.get());
    assert_eq!(held.read_to_string(), Err(Errno::ENODEV));
    for path in ["/class/block/sda", "/dev/block/8:0", "/devices/virtual/block/sda"] {
        assert_eq!(client.lookup_link(path).map(|_| ()), Err(Errno::ENOENT), "{path}");
    }
    drop(block);
    assert_eq!(client.lookup("/class/block").map(|_| ()), Err(Errno::ENOENT));
    assert_eq!(client.lookup("/devices/virtual/block").map(|_| ()), Err(Errno::ENOENT));
    drop(sys);
    assert_eq!(tree.usage().nodes, 1);
}

#[test]
fn devices_are_where_the_kernel_puts_them() {
    let (_tree, sys, client) = sysfs();
    let (input, sound) = (sys.add_class("input").unwrap(), sys.add_class("sound").unwrap());
    let usb = sys.add_bus("usb").unwrap();
    let root = sys.device("pci0000:00").register(()).unwrap();
    let hub = sys.device("1-1").bus(&usb).parent(&root).register(()).unwrap();
    let pad = sys.device("input5").class(&input).parent(&hub).register(()).unwrap();
    let event = sys.device("event5").class(&input).parent(&pad).register(()).unwrap();
    let card = sys.device("card0").class(&sound).parent(&hub).register(()).unwrap();
    let beep = sys.device("snd/beep").class(&sound).number(14, 3).register(()).unwrap();
    assert_eq!(root.devpath(), "/devices/pci0000:00");
    assert_eq!(hub.devpath(), "/devices/pci0000:00/1-1");
    assert_eq!(pad.devpath(), "/devices/pci0000:00/1-1/input/input5");
    assert_eq!(event.devpath(), "/devices/pci0000:00/1-1/input/input5/event5");
    assert_eq!(card.devpath(), "/devices/pci0000:00/1-1/sound/card0");
    assert_eq!(beep.devpath(), "/devices/virtual/sound/snd!beep");
    assert_eq!(beep.env().unwrap().get("DEVNAME"), Some("snd/beep"));
    assert_eq!(link(&client, "/bus/usb/devices/1-1").unwrap(), "../../../devices/pci0000:00/1-1");
    for device in [root.devpath(), hub.devpath(), pad.devpath(), event.devpath()] {
        assert!(client.lookup(format!("{device}/uevent")).is_ok(), "{device}");
    }
    assert_eq!(link(&client, "/class/input/event5/device").unwrap(), "../../input5");
    assert_eq!(link(&client, "/class/input/input5/device").unwrap(), "../../../1-1");
    assert!(client.lookup_link("/bus/usb/devices/1-1/device").is_err(), "only in classes");
    assert!(client.lookup_link("/devices/pci0000:00/subsystem").is_err());
}

#[test]
fn events_come_in_order_with_their_variables() {
    let (_tree, sys, client) = sysfs();
    let mut events = sys.uevents(64);
    let mem = sys.add_class("mem").unwrap();
    let null = sys.device("null").class(&mem).number(1, 3).env("MODE", "rw").register(());
    let null = null.unwrap();
    let Some(Announcement::Uevent(event)) = events.recv() else { panic!("no event") };
    let variables: Vec<String> =
        event.variables().iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(
        variables,
        [
            "ACTION=add",
            "DEVPATH=/devices/virtual/mem/null",
            "SUBSYSTEM=mem",
            "MAJOR=1",
            "MINOR=3",
            "DEVNAME=null",
            "MODE=rw",
            "SEQNUM=1"
        ]
    );
    null.set_env("MODE", "ro").unwrap();
    null.changed(&Environment::of([("WHY", "test")]).unwrap()).unwrap();
    let Some(Announcement::Uevent(event)) = events.recv() else { panic!("no event") };
    assert_eq!((event.get("WHY"), event.get("MODE")), (Some("test"), Some("ro")));
    assert_eq!(write(&client, "/class/mem/null/uevent", "add\n"), Ok(4));
    let Some(Announcement::Uevent(event)) = events.recv() else { panic!("no event") };
    assert_eq!((event.action, event.get("SYNTH_UUID")), (UeventAction::Add, Some("0")));
    assert_eq!(write(&client, "/class/mem/null/uevent", "destroy"), Err(Errno::EINVAL));
    assert_eq!(write(&client, "/class/mem/null/uevent", ""), Ok(0));
    null.remove().unwrap();
    assert_eq!(told(&mut events), ["remove@/devices/virtual/mem/null"]);
    assert_eq!(sys.uevent_seqnum(), 4);
}

#[test]
fn a_device_without_class_or_bus_is_not_told_of() {
    let (_tree, sys, client) = sysfs();
    let mut events = sys.uevents(64);
    let root = sys.device("platform").register(()).unwrap();
    root.changed(&Environment::default()).unwrap();
    assert_eq!(write(&client, "/devices/platform/uevent", "add"), Ok(3));
    root.remove().unwrap();
    assert_eq!(told(&mut events), [""; 0]);
}

#[test]
fn children_go_with_their_parent_and_come_back_by_their_own_handles() {
    let (tree, sys, client) = sysfs();
    let usb = sys.add_bus("usb").unwrap();
    let block = sys.add_class("block").unwrap();
    let hub = sys.device("1-1").bus(&usb).register(()).unwrap();
    let sda = sys.device("sda").class(&block).parent(&hub).number(8, 0).register(disk()).unwrap();
    let sda1 = sys.device("sda1").class(&block).parent(&sda).register(disk()).unwrap();
    let held = client.open("/class/block/sda1/size", OpenFlags::READ).unwrap();
    let mut events = sys.uevents(64);
    hub.remove().unwrap();
    assert_eq!(held.read_to_string(), Err(Errno::ENODEV));
    for path in ["/class/block/sda", "/class/block/sda1", "/dev/block/8:0", "/devices/1-1"] {
        assert_eq!(client.lookup_link(path).map(|_| ()), Err(Errno::ENOENT), "{path}");
    }
    let removed = [
        "remove@/devices/1-1/block/sda/sda1",
        "remove@/devices/1-1/block/sda",
        "remove@/devices/1-1",
    ];
    assert_eq!(told(&mut events), removed);
    assert_eq!(sda.changed(&Environment::default()), Err(Errno::ENODEV));
    let rejected = sys.device("sda2").class(&block).parent(&sda).register(disk()).unwrap_err();
    assert_eq!(rejected.errno(), Errno::ENOENT);
    assert_eq!(sda.remove().unwrap().size, 2048);
    assert_eq!(sda1.remove().unwrap().size, 2048);
    assert_eq!(told(&mut events), [""; 0], "once is enough");
    drop((held, usb, block, sys));
    assert_eq!(tree.usage().nodes, 1);
}

#[test]
fn a_driver_is_bound_and_let_go() {
    let (_tree, sys, client) = sysfs();
    let mut events = sys.uevents(64);
    let (usb, pci) = (sys.add_bus("usb").unwrap(), sys.add_bus("pci").unwrap());
    let (storage, other) = (usb.add_driver("storage").unwrap(), pci.add_driver("nvme").unwrap());
    let stick = sys.device("1-1").bus(&usb).register(disk()).unwrap();
    assert_eq!(stick.bind(&other), Err(Errno::EINVAL));
    assert_eq!(stick.unbind(), Err(Errno::ENODEV));
    stick.bind(&storage).unwrap();
    assert_eq!(stick.bind(&storage), Err(Errno::EBUSY));
    assert_eq!(link(&client, "/devices/1-1/driver").unwrap(), "../../bus/usb/drivers/storage");
    let back = link(&client, "/bus/usb/drivers/storage/1-1").unwrap();
    assert_eq!(back, "../../../../devices/1-1");
    assert_eq!(read(&client, "/devices/1-1/uevent").unwrap(), "DRIVER=storage\n");
    stick.unbind().unwrap();
    assert!(client.lookup_link("/devices/1-1/driver").is_err());
    stick.bind(&storage).unwrap();
    stick.remove().unwrap();
    assert!(client.lookup_link("/bus/usb/drivers/storage/1-1").is_err());
    let actions = ["add", "bind", "unbind", "bind", "unbind", "remove"];
    assert_eq!(told(&mut events), actions.map(|action| format!("{action}@/devices/1-1")));
}

#[test]
fn what_cannot_be_registered_comes_back_and_leaves_nothing() {
    let (tree, sys, client) = sysfs();
    let mut events = sys.uevents(64);
    let block = sys.add_class("block").unwrap();
    // The name is taken in the class, which is found out last.
    let in_the_way = block.dir().add_dir("sda", Mode::DIR).unwrap();
    let nodes = tree.usage().nodes;
    let rejected = sys.device("sda").class(&block).number(8, 0).register(disk()).unwrap_err();
    assert_eq!(rejected.errno(), Errno::EEXIST);
    assert!(client.lookup("/devices/virtual/block/sda").is_err());
    assert!(client.lookup_link("/dev/block/8:0").is_err());
    drop(in_the_way);
    assert_eq!(
        tree.usage().nodes,
        nodes,
        "the directory of the class has come, the other has gone"
    );
    let bad = sys.device("sda").class(&block).env("A\nB", "").register(rejected.into_inner());
    assert_eq!(bad.unwrap_err().errno(), Errno::EINVAL);
    let long = sys.device("sda").class(&block).env("A", &"x".repeat(2000)).register(disk());
    assert_eq!(long.unwrap_err().errno(), Errno::ENOMEM);
    let other = tree.root().add_dir("other", Mode::DIR).unwrap();
    let other = Sysfs::new(&other).unwrap();
    let foreign = other.device("sda").class(&block).register(disk());
    assert_eq!(foreign.unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(told(&mut events), [""; 0]);
    assert!(sys.add_class("block").is_err());
    sys.device("sda").class(&block).register(disk()).unwrap().remove().unwrap();
}

#[test]
fn a_slow_reader_is_told_to_look_again() {
    let (_tree, sys, _client) = sysfs();
    let mem = sys.add_class("mem").unwrap();
    let mut slow = sys.uevents(2);
    let mut other = sys.uevents(64);
    let null = sys.device("null").class(&mem).register(()).unwrap();
    for _ in 0..5 {
        null.changed(&Environment::default()).unwrap();
    }
    assert_eq!(slow.recv(), Some(Announcement::Resync));
    assert_eq!(slow.try_recv(), None);
    assert_eq!(told(&mut other).len(), 6);
    null.remove().unwrap();
    assert_eq!(told(&mut slow), ["remove@/devices/virtual/mem/null"]);
    drop((mem, sys));
    assert_eq!(slow.recv(), None, "at the end of the sysfs");
    assert_eq!(pollster::block_on(slow.recv_async()), None);
}

#[test]
fn readers_of_events_are_woken() {
    let (_tree, sys, _client) = sysfs();
    let mem = sys.add_class("mem").unwrap();
    let (mut blocking, mut asynchronous) = (sys.uevents(64), sys.uevents(64));
    let blocking = thread::spawn(move || blocking.recv());
    let asynchronous = thread::spawn(move || pollster::block_on(asynchronous.recv_async()));
    let null = sys.device("null").class(&mem).register(()).unwrap();
    for reader in [blocking, asynchronous] {
        let Some(Announcement::Uevent(event)) = reader.join().unwrap() else { panic!("nothing") };
        assert_eq!(event.action, UeventAction::Add);
    }
    null.remove().unwrap();
}

/// A device that a client can unplug by a write to one of its own files, who is answered when it
/// has gone.
struct Plug;

static PLUGGED: Mutex<Option<Device<Plug>>> = Mutex::new(None);

impl Attributes for Plug {
    const ENTRIES: &'static [kernfs_attr::Entry<Self>] =
        &[kernfs_attr::Entry::file("remove", Mode::WO).store(|_, op| {
            let device = PLUGGED.lock().unwrap().take().ok_or(Errno::ENODEV)?;
            let removal: Removal<Self> = device.sever();
            if let Some(draining) = removal.detach() {
                op.answer_after(draining);
            }
            Ok(op.data().len())
        })];
}

#[test]
fn a_client_can_unplug_a_device_and_is_answered_when_it_has_gone() {
    let (tree, sys, client) = sysfs();
    let mut events = sys.uevents(64);
    let pci = sys.add_bus("pci").unwrap();
    let device = sys.device("0000:00:01.0").bus(&pci).register(Plug).unwrap();
    let nodes = tree.usage().nodes;
    *PLUGGED.lock().unwrap() = Some(device);
    assert_eq!(write(&client, "/bus/pci/devices/0000:00:01.0/remove", "1\n"), Ok(2));
    assert!(client.lookup("/devices/0000:00:01.0").is_err());
    assert!(client.lookup_link("/bus/pci/devices/0000:00:01.0").is_err());
    assert_eq!(tree.usage().nodes, nodes - 5, "directory, remove, uevent, subsystem, the link");
    assert_eq!(told(&mut events), ["add", "remove"].map(|a| format!("{a}@/devices/0000:00:01.0")));
}

#[test]
fn class_attributes_and_more_attributes_of_a_device() {
    let (_tree, sys, client) = sysfs();
    let net = sys.add_class("net").unwrap();
    let _masters = net.dir().add_attr("bonding_masters", Mode::RW, Attr::new(String::new()));
    let eth0 = sys.device("eth0").class(&net).register(()).unwrap();
    let mtu = eth0.dir().add_attr("mtu", Mode::RW, Attr::new(1500u32)).unwrap();
    assert_eq!(read(&client, "/class/net/eth0/mtu").unwrap(), "1500\n");
    eth0.remove().unwrap();
    assert_eq!(mtu.remove().unwrap().into_inner(), 1500);
}

/// Unplugs a device at the moment in which a node `child` of some kind has come into the tree.
struct Unplugger {
    at: NodeKind,
    device: Mutex<Option<Device<Disk>>>,
}

impl FrontEnd for Unplugger {
    fn severed(&self, _: &Severed<'_>, ack: Ack) {
        drop(ack);
    }

    fn changed(&self, change: &Change) {
        if let Change::Added(entry) = change
            && entry.name == "child"
            && entry.kind == self.at
        {
            let device = self.device.lock().unwrap().take();
            drop(device.map(Device::sever));
        }
    }
}

#[test]
fn a_parent_that_goes_while_its_child_comes_takes_it_along() {
    // Its directory is there, but nothing leads to it; then something does, but nobody was told.
    for at in [NodeKind::Dir, NodeKind::Link] {
        let (tree, sys, client) = sysfs();
        let block = sys.add_class("block").unwrap();
        let parent = sys.device("parent").class(&block).register(disk()).unwrap();
        let child = sys.device("child").class(&block).parent(&parent).number(8, 1);
        let mut events = sys.uevents(64);
        let unplugger = Arc::new(Unplugger { at, device: Mutex::new(Some(parent)) });
        let front_end = tree.register(Arc::clone(&unplugger) as Arc<dyn FrontEnd>);
        let rejected = child.register(disk()).unwrap_err();
        assert!(unplugger.device.lock().unwrap().is_none(), "{at:?} has come");
        assert_eq!((rejected.errno(), rejected.into_inner().size), (Errno::ENOENT, 2048));
        for path in ["/class/block/child", "/dev/block/8:1", "/devices/virtual/block/parent"] {
            assert_eq!(client.lookup_link(path).map(|_| ()), Err(Errno::ENOENT), "{at:?} {path}");
        }
        assert_eq!(told(&mut events), ["remove@/devices/virtual/block/parent"]);
        drop((front_end, block, sys));
        assert_eq!(tree.usage().nodes, 1);
    }
}

/// Threads plug and unplug parents and children at once: each device that was told of is told gone,
/// exactly once and in this order, everything comes back, and nothing is left.
#[test]
fn plugging_and_unplugging_meet_without_harm() {
    let (tree, sys, client) = sysfs();
    let (usb, input) = (sys.add_bus("usb").unwrap(), sys.add_class("input").unwrap());
    let mut events = sys.uevents(100_000);
    let plug = |builders: Vec<DeviceBuilder>| {
        for builder in builders {
            match builder.register(disk()) {
                Ok(device) => {
                    let _ = device.changed(&Environment::default());
                    assert_eq!(device.remove().unwrap().size, 2048);
                }
                Err(rejected) => {
                    assert_eq!(rejected.errno(), Errno::ENOENT);
                    assert_eq!(rejected.into_inner().size, 2048);
                }
            }
        }
    };
    for round in 0..60 {
        let hub = sys.device(&format!("hub{round}")).bus(&usb).register(disk()).unwrap();
        let builders = |thread: usize| -> Vec<DeviceBuilder> {
            let name = |number| format!("input{thread}_{number}");
            let builder = |number| sys.device(&name(number)).class(&input).parent(&hub);
            (0..10).map(builder).collect()
        };
        let (first, second) = (builders(1), builders(2));
        let path = format!("/devices/hub{round}/read_only");
        thread::scope(|scope| {
            scope.spawn(|| while write(&client, &path, "1").is_ok() {});
            scope.spawn(|| plug(first));
            scope.spawn(|| plug(second));
            for _ in 0..round {
                thread::yield_now();
            }
            assert_eq!(hub.remove().unwrap().size, 2048);
        });
    }
    let mut open = HashMap::new();
    while let Some(Announcement::Uevent(event)) = events.try_recv() {
        let is_there = open.entry(event.devpath.clone()).or_insert(false);
        match event.action {
            UeventAction::Add => assert!(!std::mem::replace(is_there, true), "{event} twice"),
            UeventAction::Remove => assert!(std::mem::take(is_there), "{event} of nothing"),
            _ => assert!(*is_there, "{event} of nothing"),
        }
    }
    assert!(open.values().all(|is_there| !is_there), "{open:?}");
    drop((events, usb, input, sys));
    assert_eq!(tree.usage().nodes, 1);
}
