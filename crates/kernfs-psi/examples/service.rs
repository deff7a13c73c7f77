//! The pressure of a service: tasks that wait for a pool of permits count as I/O stalls, and what
//! comes of that is served as files in the kernel's format.
//!
//! `cargo run -p kernfs-psi --example service` prints the files while the load grows, and the events
//! of a trigger as a monitor would see them. The tree can be mounted as well, with `kernfs-fuse`.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use kernfs::{Caller, Events, OpenFlags, Tree};
use kernfs_psi::{Engine, Group, Resource, pressure_file};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// What the pool can do at once.
const PERMITS: usize = 4;
/// How long a query takes.
const QUERY: Duration = Duration::from_millis(20);

/// Serves one request: waits for a permit, then works.
async fn request(group: Group, pool: Arc<Semaphore>) {
    let _permit = group.stalled(Resource::Io, pool.acquire()).await;
    // The query itself is what the service is there for.
    let _work = group.work();
    sleep(QUERY).await;
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let engine = Engine::new();
    let service = engine.root().child();
    let pool = Arc::new(Semaphore::new(PERMITS));

    let tree = Tree::new();
    let dir = tree.root().add_dir("service", kernfs::Mode::DIR)?;
    for resource in [Resource::Io, Resource::Memory, Resource::Cpu] {
        let file = pressure_file(&service, resource);
        dir.add_file(format!("{resource}.pressure"), file.options(), file)?.keep();
    }
    // Evaluates triggers, and sleeps while nothing stalls.
    let triggers = tokio::spawn(engine.drive(sleep));

    let client = tree.client(Caller::OWNER);
    let monitor = client.open("/service/io.pressure", OpenFlags::READ_WRITE)?;
    monitor.write(b"some 100000 500000")?; // 100 ms of stalls within half a second

    for requests_per_query in [2, 4, 8] {
        println!("{requests_per_query} requests per {QUERY:?}, {PERMITS} at once:");
        let load = tokio::spawn({
            let (service, pool) = (service.clone(), Arc::clone(&pool));
            async move {
                for _ in 0..Duration::from_secs(3).as_millis() / QUERY.as_millis() {
                    for _ in 0..requests_per_query {
                        tokio::spawn(request(service.clone(), Arc::clone(&pool)));
                    }
                    sleep(QUERY).await;
                }
            }
        });
        while !load.is_finished() {
            if timeout(Duration::from_secs(1), monitor.wait_async(Events::PRI)).await.is_ok() {
                println!("  over 100 ms in 500 ms");
            }
        }
        print!("{}", client.open("/service/io.pressure", OpenFlags::READ)?.read_to_string()?);
    }
    triggers.abort();
    dir.remove()?; // whoever still polls is awake now, and reads ENODEV
    Ok(())
}
