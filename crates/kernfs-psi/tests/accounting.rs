//! Groups, tasks, totals and averages, on a virtual clock.

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use kernfs_psi::{
    Engine, Group, PERIOD, PressureLine, Resource, Share, Stall, Task, TaskState, VirtualClock,
};
use proptest::prelude::*;

fn engine_of(cpus: usize) -> (VirtualClock, Engine) {
    let clock = VirtualClock::new();
    let engine = Engine::builder().clock(clock.clone()).cpus(cpus).build();
    (clock, engine)
}

fn engine() -> (VirtualClock, Engine) {
    engine_of(1)
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Totals of io, memory, cpu, irq in milliseconds, some before full.
fn totals(group: &Group) -> [u128; 7] {
    let total = |line: PressureLine| line.total().as_millis();
    let [io, memory, cpu, irq] = Resource::ALL.map(|resource| group.pressure(resource));
    let some = |pressure: kernfs_psi::Pressure| total(pressure.some.unwrap());
    assert_eq!(irq.some, None);
    [
        some(io),
        total(io.full),
        some(memory),
        total(memory.full),
        some(cpu),
        total(cpu.full),
        total(irq.full),
    ]
}

#[test]
fn a_change_counts_for_the_group_and_all_above_it() {
    let (clock, engine) = engine();
    let parent = engine.root().child();
    let (a, b) = (parent.child(), parent.child());
    let _work = b.work();
    let stall = a.stall(Resource::Io);
    clock.advance(ms(700));
    drop(stall);
    clock.advance(ms(300));
    assert_eq!(totals(&a), [700, 700, 0, 0, 0, 0, 0]);
    assert_eq!(totals(&b), [0; 7]);
    assert_eq!(totals(&parent), [700, 0, 0, 0, 0, 0, 0]);
    assert_eq!(totals(engine.root()), [700, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn each_resource_has_its_guard() {
    let (clock, engine) = engine();
    let group = engine.root().child();
    for resource in Resource::ALL {
        let stall = group.stall(resource);
        clock.advance(ms(10));
        drop(stall);
    }
    assert_eq!(totals(&group), [10, 10, 10, 10, 10, 10, 10]);
    // Full of cpu is undefined for the system as a whole.
    assert_eq!(totals(engine.root()), [10, 10, 10, 10, 10, 0, 10]);
}

#[test]
fn full_ends_while_somebody_works() {
    let (clock, engine) = engine();
    let group = engine.root().child();
    let mut task = group.task(TaskState::MEMSTALL);
    clock.advance(ms(1));
    let work = group.work();
    clock.advance(ms(2));
    task.set(TaskState::MEMSTALL | TaskState::WORKING);
    clock.advance(ms(4));
    drop(work);
    clock.advance(ms(8));
    task.set(TaskState::WORKING);
    clock.advance(ms(16));
    // With two threads at work on one cpu, one that reclaims is not all of it.
    assert_eq!(totals(&group), [0, 0, 15, 9, 0, 0, 0]);
}

#[test]
fn a_task_that_moves_takes_its_stall_along() {
    let (clock, engine) = engine_of(2);
    let (a, b) = (engine.root().child(), engine.root().child());
    let mut task = a.task_on(0, TaskState::IOWAIT);
    clock.advance(ms(5));
    task.move_to(&b);
    clock.advance(ms(7));
    // Looked at here, since cpus that were busy one after the other would be averaged.
    assert_eq!(totals(&b)[..2], [7, 7]);
    assert_eq!(totals(engine.root())[..2], [12, 12]);
    task.move_to_cpu(1);
    clock.advance(ms(11));
    assert_eq!(task.state(), TaskState::IOWAIT);
    assert_eq!(totals(&a)[..2], [5, 5]);
    assert_eq!(totals(&b)[..2], [18, 18]);
    assert_eq!(totals(engine.root())[..2], [23, 23]);
}

#[test]
fn cpus_are_weighted_by_their_time_that_is_not_idle() {
    let (clock, engine) = engine_of(4);
    let group = engine.root().child();
    let _stalls = group.task_on(0, TaskState::IOWAIT);
    let works = group.task_on(1, TaskState::WORKING);
    clock.advance(ms(300));
    drop(works);
    clock.advance(ms(600));
    // 900 ms of stall on a cpu that was busy for 900 ms, none on one busy for 300 ms, two idle.
    assert_eq!(totals(&group)[..2], [675, 675]);
}

#[test]
fn looking_often_loses_nothing() {
    let (clock, engine) = engine_of(2);
    let group = engine.root().child();
    let _stall = group.stall(Resource::Memory);
    for _ in 0..1000 {
        clock.advance(Duration::from_micros(3));
        let _ = group.pressure(Resource::Memory);
    }
    assert_eq!(totals(&group)[2], 3);
}

#[test]
fn averages_of_a_stall_are_those_of_the_kernel_whoever_looks_when() {
    let vectors = [
        (1, "avg10=18.11 avg60=3.27 avg300=0.68 "),
        (2, "avg10=32.94 avg60=6.43 avg300=1.36 "),
        (3, "avg10=45.09 avg60=9.49 avg300=2.03 "),
        (5, "avg10=63.18 avg60=15.32 avg300=3.37 "),
        (10, "avg10=86.44 avg60=28.29 avg300=6.63 "),
        (30, "avg10=99.75 avg60=63.13 avg300=18.60 "),
    ];
    for (periods, expected) in vectors {
        let expected = |line: &str| format!("{expected}total={line}");
        let total = (PERIOD * periods).as_micros().to_string();
        for looks in [1, periods] {
            let (clock, engine) = engine();
            let _stall = engine.root().stall(Resource::Io);
            for _ in 0..looks {
                clock.advance(PERIOD * periods / looks);
                let _ = engine.root().pressure(Resource::Io);
            }
            let pressure = engine.root().pressure(Resource::Io);
            assert_eq!(pressure.full.to_string(), expected(&total), "{periods} in {looks}");
        }
        // The same from times that are fed.
        let (clock, engine) = engine();
        for _ in 0..periods {
            engine.root().feed(Resource::Io, Stall::Full, PERIOD);
            clock.advance(PERIOD);
        }
        let pressure = engine.root().pressure(Resource::Io);
        assert_eq!(pressure.full.to_string(), expected(&total), "{periods} fed");
    }
}

#[test]
fn averages_of_one_percent_and_their_decay_are_those_of_the_kernel() {
    let (clock, engine) = engine();
    let group = engine.root();
    let one_percent = PERIOD / 100;
    for (periods, expected) in
        [(1, "avg10=0.18 avg60=0.03 avg300=0.00"), (9, "avg10=0.86 avg60=0.28 avg300=0.06")]
    {
        for _ in 0..periods {
            group.feed(Resource::Memory, Stall::Some, one_percent);
            clock.advance(PERIOD);
            let _ = group.pressure(Resource::Memory);
        }
        let some = group.pressure(Resource::Memory).some.unwrap().to_string();
        assert!(some.starts_with(expected), "{some}");
    }
}

/// A group whose averages all stand at 100 %.
fn saturated() -> (VirtualClock, Engine) {
    let (clock, engine) = engine();
    let stall = engine.root().stall(Resource::Io);
    clock.advance(PERIOD * 1200);
    let _ = engine.root().pressure(Resource::Io);
    drop(stall);
    let io = engine.root().pressure(Resource::Io).full;
    assert_eq!((io.avg10(), io.avg60(), io.avg300()), (10_000, 10_000, 10_000));
    (clock, engine)
}

#[test]
fn averages_decay_as_those_of_the_kernel() {
    let (clock, engine) = saturated();
    for (periods, expected) in
        [(1, "avg10=81.88 avg60=96.72 avg300=99.31"), (9, "avg10=13.55 avg60=71.70 avg300=93.36")]
    {
        for _ in 0..periods {
            clock.advance(PERIOD);
            let _ = engine.root().pressure(Resource::Io);
        }
        let full = engine.root().pressure(Resource::Io).full.to_string();
        assert!(full.starts_with(expected), "{full}");
    }
}

#[test]
fn missed_periods_decay_as_those_of_the_kernel() {
    let (clock, engine) = saturated();
    clock.advance(PERIOD * 11);
    let full = engine.root().pressure(Resource::Io).full.to_string();
    assert!(full.starts_with("avg10=11.07 avg60=69.38 avg300=92.72"), "{full}");
}

#[test]
fn a_long_time_passes_quickly() {
    let (clock, engine) = engine();
    let group = engine.root().child();
    let _stall = group.stall(Resource::Cpu);
    clock.advance(Duration::from_secs(100 * 365 * 86_400));
    let cpu = group.pressure(Resource::Cpu);
    assert_eq!(cpu.full.avg300(), 10_000);
    assert_eq!(cpu.full.total().as_secs(), 100 * 365 * 86_400);
}

#[test]
fn more_time_than_passes_is_carried_over() {
    let (clock, engine) = engine();
    let group = engine.root();
    group.feed(Resource::Io, Stall::Some, PERIOD * 3);
    let avg10 = |group: &Group| group.pressure(Resource::Io).some.unwrap().avg10();
    for expected in [1811, 3294, 4509] {
        clock.advance(PERIOD);
        assert_eq!(avg10(group), expected);
    }
    clock.advance(PERIOD);
    assert!(avg10(group) < 4509);
}

#[test]
fn totals_stand_still_while_accounting_is_off_and_go_on_after() {
    let (clock, engine) = engine();
    let group = engine.root().child();
    let child = group.child();
    let _stall = child.stall(Resource::Io);
    clock.advance(ms(100));
    group.disable();
    group.disable();
    assert!(!group.is_enabled());
    let before = group.pressure(Resource::Io).full.total();
    clock.advance(ms(1000));
    let more = child.stall(Resource::Memory);
    group.feed(Resource::Io, Stall::Full, ms(50));
    assert_eq!(group.pressure(Resource::Io).full.total(), before);
    assert_eq!(before, ms(100));
    group.enable();
    group.enable();
    assert_eq!(group.pressure(Resource::Io).full.total(), before);
    clock.advance(ms(10));
    drop(more);
    // The tasks were counted meanwhile; the child and the root were accounted throughout.
    assert_eq!(totals(&group)[..4], [110, 110, 10, 10]);
    assert_eq!(totals(&child)[..4], [1110, 1110, 10, 10]);
    assert_eq!(totals(engine.root())[..4], [1110, 1160, 10, 10]);
    assert!(group.child().is_enabled());
}

#[test]
fn averages_decay_while_accounting_is_off() {
    let (clock, engine) = saturated();
    engine.root().disable();
    clock.advance(PERIOD * 30);
    assert!(engine.root().pressure(Resource::Io).full.avg10() < 100);
}

#[test]
fn a_share_is_a_stall_for_that_share_of_the_time() {
    let (clock, engine) = engine();
    let parent = engine.root().child();
    let (a, b) = (parent.child(), parent.child());
    a.set_share(Resource::Io, Stall::Some, Share::from_millionths(300_000));
    a.set_share(Resource::Io, Stall::Full, Share::from_millionths(125_000));
    clock.advance(PERIOD * 30);
    let io = a.pressure(Resource::Io);
    assert_eq!((io.some.unwrap().avg10(), io.full.avg10()), (2992, 1197));
    assert_eq!(io.some.unwrap().total(), PERIOD * 9);

    // Full is some too; above, shares are added up, to all of the time.
    b.set_share(Resource::Io, Stall::Full, Share::from_millionths(900_000));
    let (before_b, before) = (totals(&b), totals(&parent));
    clock.advance(ms(1000));
    assert_eq!(totals(&b)[..2], [before_b[0] + 900, before_b[1] + 900]);
    assert_eq!(totals(&parent)[..2], [before[0] + 1000, before[1] + 1000]);

    // It ends with its group.
    drop(b);
    a.set_share(Resource::Io, Stall::Some, Share::NONE);
    a.set_share(Resource::Io, Stall::Full, Share::NONE);
    let before = totals(engine.root());
    clock.advance(ms(1000));
    assert_eq!(totals(engine.root()), before);
}

#[test]
fn a_future_stalls_while_it_is_pending() {
    let (clock, engine) = engine();
    let group = engine.root().child();
    let mut cx = Context::from_waker(Waker::noop());
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let mut future = pin!(group.working(group.stalled(Resource::Io, receiver)));
    clock.advance(ms(1));
    assert!(future.as_mut().poll(&mut cx).is_pending());
    clock.advance(ms(10));
    sender.send(()).unwrap();
    clock.advance(ms(10));
    assert!(future.as_mut().poll(&mut cx).is_ready());
    clock.advance(ms(100));
    assert_eq!(totals(&group)[..2], [20, 20]);

    // One that is ready at once never stalls, and one that is dropped does no longer.
    let mut ready = pin!(group.stalled(Resource::Io, std::future::ready(())));
    assert!(ready.as_mut().poll(&mut cx).is_ready());
    let mut dropped = Box::pin(group.stalled(Resource::Io, std::future::pending::<()>()));
    assert!(dropped.as_mut().poll(&mut cx).is_pending());
    clock.advance(ms(5));
    drop(dropped);
    clock.advance(ms(100));
    assert_eq!(totals(&group)[..2], [25, 25]);
}

#[test]
fn changes_of_many_threads_all_count() {
    const THREADS: usize = 4;
    let (clock, engine) = engine_of(THREADS);
    let group = engine.root().child().child();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..2000 {
                    let _stall = group.stall(Resource::Io);
                    clock.advance(Duration::from_micros(1));
                    let _work = group.work();
                    let _ = group.pressure(Resource::Io);
                }
            });
        }
    });
    let before = totals(&group);
    clock.advance(PERIOD * 5);
    assert_eq!(totals(&group), before, "a task is left");
}

#[test]
fn text_is_that_of_the_kernel() {
    let (clock, engine) = engine();
    let group = engine.root().child();
    let _stall = group.stall(Resource::Io);
    clock.advance(PERIOD + Duration::from_nanos(1_234_567));
    let expected = "some avg10=18.11 avg60=3.27 avg300=0.68 total=2005234\n\
                    full avg10=18.11 avg60=3.27 avg300=0.68 total=2005234\n";
    assert_eq!(group.pressure(Resource::Io).to_string(), expected);
    let expected = "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
    assert_eq!(group.pressure(Resource::Irq).to_string(), expected);
}

#[derive(Clone, Debug)]
enum Step {
    Set { task: usize, state: TaskState },
    Pass { micros: u64 },
    Look,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0usize..4, 0u8..32).prop_map(|(task, bits)| Step::Set {
            task,
            state: TaskState::from_bits_truncate(bits),
        }),
        4 => (0u64..3_000_000).prop_map(|micros| Step::Pass { micros }),
        1 => Just(Step::Look),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Tells whether some, or all, is stalled, in the words of the documentation.
fn is_stalled(tasks: &[TaskState], resource: Resource, stall: Stall) -> bool {
    let is = |task: &TaskState, state| task.contains(state);
    let running = |task: &TaskState| is(task, TaskState::RUNNING) || is(task, TaskState::ONCPU);
    let any = |what: &dyn Fn(&TaskState) -> bool| tasks.iter().any(what);
    let waits = any(&|task| is(task, TaskState::IOWAIT));
    let lacks = any(&|task| is(task, TaskState::MEMSTALL));
    let works = any(&|task| is(task, TaskState::ONCPU));
    let productive = any(&|task| running(task) && !is(task, TaskState::MEMSTALL));
    let productive_now = any(&|task| is(task, TaskState::ONCPU) && !is(task, TaskState::MEMSTALL));
    match (resource, stall) {
        (Resource::Io, Stall::Some) => waits,
        (Resource::Io, Stall::Full) => waits && !any(&running),
        (Resource::Memory, Stall::Some) => lacks,
        (Resource::Memory, Stall::Full) => (lacks && !productive) || (works && !productive_now),
        (Resource::Cpu, Stall::Some) => {
            any(&|task| is(task, TaskState::RUNNING) && !is(task, TaskState::ONCPU))
        }
        (Resource::Cpu, Stall::Full) => any(&running) && !works,
        (Resource::Irq, _) => any(&|task| is(task, TaskState::IRQ)),
    }
}

proptest! {
    #[test]
    fn totals_are_those_of_a_plain_model(steps in steps()) {
        let (clock, engine) = engine();
        let group = engine.root().child();
        let mut tasks: Vec<Task> = (0..4).map(|_| group.task(TaskState::empty())).collect();
        let mut expected = [Duration::ZERO; 7];
        let kinds = Resource::ALL.into_iter().flat_map(|resource| {
            [(resource, Stall::Some), (resource, Stall::Full)]
        });
        let kinds: Vec<_> = kinds.filter(|kind| *kind != (Resource::Irq, Stall::Some)).collect();
        let mut last = totals(&group);
        for step in steps {
            match step {
                Step::Set { task, state } => tasks[task].set(state),
                Step::Pass { micros } => {
                    let states: Vec<_> = tasks.iter().map(Task::state).collect();
                    let passed = Duration::from_micros(micros);
                    for (total, &(resource, stall)) in expected.iter_mut().zip(&kinds) {
                        if is_stalled(&states, resource, stall) {
                            *total += passed;
                        }
                    }
                    clock.advance(passed);
                }
                Step::Look => {
                    let now = totals(&group);
                    prop_assert!(last.iter().zip(now).all(|(last, now)| *last <= now));
                    last = now;
                }
            }
        }
        prop_assert_eq!(totals(&group), expected.map(|total| total.as_millis()));
    }

    /// Averages do not depend on who looked when, but for the rounding of periods that are passed
    /// at once.
    #[test]
    fn averages_do_not_depend_on_looking(steps in steps()) {
        let run = |looks: bool| {
            let (clock, engine) = engine();
            let group = engine.root().child();
            let mut tasks: Vec<Task> = (0..4).map(|_| group.task(TaskState::empty())).collect();
            for step in &steps {
                match *step {
                    Step::Set { task, state } => tasks[task].set(state),
                    Step::Pass { micros } => clock.advance(Duration::from_micros(micros)),
                    Step::Look => {}
                }
                if looks {
                    let _ = group.pressure(Resource::Io);
                }
            }
            clock.advance(PERIOD);
            Resource::ALL.map(|resource| group.pressure(resource))
        };
        for (seen, unseen) in run(true).into_iter().zip(run(false)) {
            prop_assert_eq!(seen.full.total(), unseen.full.total());
            let lines = [(seen.full, unseen.full)].into_iter().chain(seen.some.zip(unseen.some));
            for (seen, unseen) in lines {
                prop_assert!(seen.avg10().abs_diff(unseen.avg10()) < 10);
                prop_assert!(seen.avg60().abs_diff(unseen.avg60()) < 10);
                prop_assert!(seen.avg300().abs_diff(unseen.avg300()) < 10);
            }
        }
    }
}
