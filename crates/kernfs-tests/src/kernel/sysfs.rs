//! The kernel's sysfs: network devices, and loop devices for attributes that come and go.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use super::{mounted, must_run, run};
use crate::probe::eventually;
use crate::raw::unshare_network;
use crate::subject::{Attribute, Device, Kind, Needs, Owner, Sys};
use crate::syscalls::{ABILITIES, Syscalls};

/// The owner's side: devices of this process.
#[derive(Debug)]
pub struct Sysfs {
    root: PathBuf,
    /// Their names; all of them are removed at the end.
    devices: Mutex<HashSet<String>>,
    /// Loop devices, and what is attached to them.
    loops: Mutex<HashMap<String, PathBuf>>,
    namespace: Result<Namespace, String>,
    why_no_loops: Option<String>,
    count: AtomicUsize,
}

impl Sysfs {
    /// Finds out what devices can be made.
    ///
    /// # Errors
    ///
    /// Tells why none can be made here.
    pub fn subject() -> Result<Syscalls<Self>, String> {
        let root = mounted("sysfs")?;
        let (devices, loops, count) = Default::default();
        let namespace = Namespace::new();
        let mut owner = Self { root, devices, loops, namespace, why_no_loops: None, count };
        let name = owner.fresh();
        add_link(&name)?;
        must_run("ip", &["link", "del", &name]).map_err(|_| "a device cannot be removed")?;
        owner.why_no_loops = owner.attach().map(drop).err();
        owner.detach_all();
        Ok(Syscalls::new(owner))
    }

    /// Returns a name that leaves room for a letter more.
    fn fresh(&self) -> String {
        // Unique in the process, not only in the subject.
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        format!("kt{}x{}", std::process::id(), COUNT.fetch_add(1, SeqCst) % 1000)
    }

    fn of(&self, name: &str) -> Device {
        let path = |dir: &str| self.root.join(dir).join(name).display().to_string();
        Device {
            dir: path("devices/virtual/net"),
            rw: "mtu".into(),
            ro: "address".into(),
            wo: None,
            secret: None,
            mapped: None,
            link: path("class/net"),
        }
    }

    /// Attaches a new file to a free loop device, and returns the name of that.
    fn attach(&self) -> Result<String, String> {
        let name =
            format!("kernfs-tests-{}-{}", std::process::id(), self.count.fetch_add(1, SeqCst));
        let path = std::env::temp_dir().join(name);
        let made = fs::File::create(&path).and_then(|file| file.set_len(1 << 20));
        made.map_err(|error| format!("no file for a loop device: {error}"))?;
        let text = path.display().to_string();
        let device = run("losetup", &["--find", "--show", &text]).inspect_err(|_| {
            let _ = fs::remove_file(&path);
        })?;
        let name = last(&device).to_owned();
        // The device may have had another one before.
        if let Some(old) = self.loops.lock().unwrap().insert(name.clone(), path) {
            let _ = fs::remove_file(old);
        }
        Ok(name)
    }

    fn attribute_of(&self, name: &str) -> Attribute {
        let path = self.root.join("block").join(name).join("loop/backing_file");
        Attribute { path: path.display().to_string() }
    }

    fn detach_all(&self) {
        for (name, path) in self.loops.lock().unwrap().drain() {
            if Path::new(&self.attribute_of(&name).path).exists() {
                let _ = must_run("losetup", &["--detach", &format!("/dev/{name}")]);
            }
            let _ = fs::remove_file(path);
        }
    }
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Makes a pair of connected devices; removing one of them removes both.
fn add_link(name: &str) -> Result<String, String> {
    run("ip", &["link", "add", name, "type", "veth", "peer", "name", &format!("{name}p")])
}

impl Owner for Sysfs {
    fn name(&self) -> String {
        "Linux sysfs".into()
    }

    fn kind(&self) -> Kind {
        Kind::Kernel
    }

    fn can(&self) -> Needs {
        let mut can = ABILITIES | Needs::DEVICES;
        can.set(Needs::NAMESPACES, self.namespace.is_ok());
        can.set(Needs::ATTRIBUTES, self.why_no_loops.is_none());
        can
    }

    fn why_not(&self, needs: Needs) -> Option<String> {
        match needs {
            Needs::ATTRIBUTES => self.why_no_loops.clone(),
            Needs::NAMESPACES => self.namespace.as_ref().err().cloned(),
            Needs::CGROUPS => Some("sysfs has no control groups".into()),
            Needs::MAPPED_FILE => Some("no file of these devices can be mapped".into()),
            Needs::HANDLES => Some("sysfs gives no file handles".into()),
            _ => None,
        }
    }

    fn device(&self) -> Sys<Device> {
        let name = self.fresh();
        self.devices.lock().unwrap().insert(name.clone());
        add_link(&name).map_err(|said| {
            eprintln!("{said}");
            crate::errno::EINVAL
        })?;
        Ok(self.of(&name))
    }

    fn set_value(&self, device: &Device, value: &str) -> Sys<()> {
        must_run("ip", &["link", "set", last(&device.dir), "mtu", value]).map(drop)
    }

    fn unregister(&self, device: &Device) -> Sys<()> {
        let name = last(&device.dir);
        self.devices.lock().unwrap().remove(name);
        must_run("ip", &["link", "del", name]).map(drop)
    }

    fn rename_device(&self, device: &Device, name: &str) -> Sys<Device> {
        let old = last(&device.dir);
        must_run("ip", &["link", "set", old, "name", name])?;
        let mut devices = self.devices.lock().unwrap();
        devices.remove(old);
        devices.insert(name.into());
        Ok(self.of(name))
    }

    fn move_device(&self, device: &Device, is_away: bool) -> Sys<()> {
        let namespace = self.namespace.as_ref().map_err(|_| crate::errno::ENOSYS)?;
        let name = last(&device.dir);
        if is_away {
            let to = namespace.thread_id.to_string();
            return must_run("ip", &["link", "set", name, "netns", &to]).map(drop);
        }
        namespace.run_inside(&["link", "set", name, "netns", &std::process::id().to_string()])
    }

    fn attribute(&self) -> Sys<Attribute> {
        let name = self.attach().map_err(|_| crate::errno::EINVAL)?;
        Ok(self.attribute_of(&name))
    }

    fn set_present(&self, attribute: &Attribute, is_present: bool) -> Sys<()> {
        let path = Path::new(&attribute.path);
        let name = path.ancestors().nth(2).and_then(Path::file_name).and_then(|name| name.to_str());
        let name = name.ok_or(crate::errno::ENOENT)?;
        let device = format!("/dev/{name}");
        let file = self.loops.lock().unwrap().get(name).cloned().ok_or(crate::errno::ENOENT)?;
        if is_present {
            must_run("losetup", &[&device, &file.display().to_string()])?;
        } else {
            must_run("losetup", &["--detach", &device])?;
        }
        // Somebody else who has looked at the device may delay it.
        eventually("a loop device changes", || path.exists() == is_present);
        Ok(())
    }
}

impl Drop for Sysfs {
    fn drop(&mut self) {
        for name in self.devices.get_mut().unwrap().drain() {
            // Those that are elsewhere go with their namespace.
            let _ = run("ip", &["link", "del", &name]);
        }
        self.detach_all();
    }
}

/// Another network namespace, which lives as long as a thread that is in it.
#[derive(Debug)]
struct Namespace {
    thread_id: i32,
    orders: Option<Sender<Vec<String>>>,
    results: Mutex<Receiver<Sys<()>>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    fn new() -> Result<Self, String> {
        let (orders, received) = mpsc::channel::<Vec<String>>();
        let (answer, results) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let id = rustix::thread::gettid().as_raw_nonzero().get();
            let _ = tell.send(unshare_network().map(|()| id));
            // What a thread runs is in the namespace of the thread.
            for args in received {
                let args: Vec<_> = args.iter().map(String::as_str).collect();
                let _ = answer.send(must_run("ip", &args).map(drop));
            }
        });
        let thread_id = match told.recv() {
            Ok(Ok(id)) => id,
            Ok(Err(errno)) => return Err(format!("no network namespace: errno {errno}")),
            Err(_) => return Err("no thread".into()),
        };
        let (orders, results) = (Some(orders), Mutex::new(results));
        Ok(Self { thread_id, orders, results, thread: Some(thread) })
    }

    fn run_inside(&self, args: &[&str]) -> Sys<()> {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let results = self.results.lock().unwrap();
        let orders = self.orders.as_ref().expect("until it is dropped");
        orders.send(args).map_err(|_| crate::errno::EINVAL)?;
        results.recv().unwrap_or(Err(crate::errno::EINVAL))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
