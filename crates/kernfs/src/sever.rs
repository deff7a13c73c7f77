//! The first phase of a removal: deciding it, in an order that leaves no gap.
//!
//! 1. Under the tree lock the whole subtree is marked and unlinked: no lookup finds it.
//! 2. Every node lets go of its driver, and every gate is closed: no operation starts.
//! 3. Everyone who waits is woken, to find the gates closed.
//! 4. Where nobody is inside, open files are released; elsewhere the last one inside does it.
//! 5. Front ends are told, and acknowledge when they like.
//!
//! Nothing here waits; what is left to be waited for is in the [`Drain`].

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::changes::{Change, Severed};
use crate::drain::{Busy, Drain, Kept, Token};
use crate::node::{AnyOpen, HIDDEN, Inner, Node, REMOVED};
use crate::structure::Shared;

/// What is left of a removal: what is to be waited for, and drivers to drop after it.
pub(crate) type Removal = (Option<Arc<Drain>>, Vec<Arc<dyn Kept>>);

/// Severs a node and all below it for good; of those who do it at once, one does the work.
pub(crate) fn remove(tree: &Arc<Shared>, top: &Arc<Node>) -> Removal {
    let (drain, token) = Drain::start();
    let Some((nodes, change)) = tree.locked(|| {
        if top.has(REMOVED) {
            return None;
        }
        let change = tree.record(top, || Change::removed(top));
        unlink(tree, top, &drain);
        Some((mark(top, &token), change))
    }) else {
        return (top.place.lock().drain.clone(), Vec::new());
    };
    tree.forget_ids(&nodes);

    let mut kept: Vec<Arc<dyn Kept>> = Vec::new();
    let mut opens = Vec::new();
    for node in &nodes {
        match node.inner() {
            Inner::File(file) => {
                let (opened, driver) = file.sever();
                kept.extend(driver.map(|driver| driver as Arc<dyn Kept>));
                opens.extend(opened.into_values());
            }
            Inner::Dir(dir) => {
                if dir.gate.close(Some(token.clone())) {
                    let busy: Arc<dyn Busy> = Arc::<Node>::clone(node);
                    drain.note_busy(Arc::downgrade(&busy));
                }
            }
            Inner::Link(_) | Inner::Symlink(_) => {}
        }
    }
    close_all(&opens, &drain, &token);
    for node in &nodes {
        if let Inner::Dir(dir) = node.inner() {
            dir.gate.finish_close();
        }
    }
    if let Some(change) = change {
        tree.fronts.severed(&Severed::removed(&change, &nodes), &token);
        tree.fronts.tell(&change);
    }
    if Arc::ptr_eq(top, &tree.root) {
        tree.fronts.end();
        kept.extend(tree.dir_ops.lock().take().map(|dir_ops| dir_ops as Arc<dyn Kept>));
    }
    drop(token);
    (Some(drain), kept)
}

/// Severs the open files of a node and refuses new ones until it is shown.
pub(crate) fn hide(tree: &Arc<Shared>, node: &Arc<Node>) -> Option<Arc<Drain>> {
    let (drain, token) = Drain::start();
    let hidden = tree.locked(|| {
        let Inner::File(file) = node.inner() else {
            return None;
        };
        if node.has(REMOVED | HIDDEN) {
            return None;
        }
        node.raise(HIDDEN);
        succeed(node, &token);
        Some((file.hide(), tree.record(node, || Change::hidden(node))))
    });
    let Some((opens, change)) = hidden else {
        return node.place.lock().drain.clone();
    };
    let opens: Vec<_> = opens.into_values().collect();
    close_all(&opens, &drain, &token);
    if let Some(change) = change {
        tree.fronts.severed(&Severed::hidden(&change, node), &token);
        tree.fronts.tell(&change);
    }
    drop(token);
    Some(drain)
}

/// Makes a hidden node visible again; what was severed stays dead.
pub(crate) fn show(tree: &Arc<Shared>, node: &Arc<Node>) {
    let change = tree.locked(|| {
        let Inner::File(file) = node.inner() else {
            return None;
        };
        if node.has(REMOVED) || !node.has(HIDDEN) {
            return None;
        }
        file.show();
        node.lower(HIDDEN);
        tree.record(node, || Change::shown(node))
    });
    tree.tell(change);
}

/// Takes the topmost node out of its directory; under the tree lock.
///
/// The directory keeps the drain in mind: its own removal is to outlast it.
fn unlink(tree: &Shared, top: &Arc<Node>, drain: &Arc<Drain>) {
    let (parent, name, tag) = {
        let place = top.place.lock();
        (place.parent.clone(), place.name.clone(), place.tag)
    };
    if let Some(Inner::Dir(dir)) = parent.as_ref().map(|parent| parent.inner()) {
        dir.children.write().remove(tag, &name, top, tree.realm.clock.now());
        dir.leaving.lock().note(drain);
    }
}

/// Marks a subtree as removed and takes it apart; under the tree lock.
///
/// Returns its nodes, children before their parents.
fn mark(top: &Arc<Node>, token: &Token) -> Vec<Arc<Node>> {
    let mut nodes = alloc::vec![Arc::clone(top)];
    let mut next = 0;
    while let Some(node) = nodes.get(next).cloned() {
        next += 1;
        // Before the flag: who sees that it was removed finds what to wait for.
        succeed(&node, token);
        node.raise(REMOVED);
        if let Inner::Dir(dir) = node.inner() {
            nodes.extend(dir.children.write().close());
            let leaving = dir.leaving.lock().take();
            for drain in leaving {
                drain.chain(token);
            }
        }
    }
    nodes.reverse();
    nodes
}

/// Makes a severing the last one of a node, which outlasts those before.
fn succeed(node: &Node, token: &Token) {
    let before = core::mem::replace(&mut node.place.lock().drain, token.drain());
    if let Some(before) = before {
        before.chain(token);
    }
}

/// Closes gates, wakes everybody, and only then releases: release may take its time.
fn close_all(opens: &[Arc<dyn AnyOpen>], drain: &Drain, token: &Token) {
    for open in opens {
        if open.close(Some(token.clone())) {
            drain.note_busy(busy(open));
        }
    }
    for open in opens {
        open.core().ready.kill();
    }
    for open in opens {
        open.finish_close();
    }
}

fn busy(open: &Arc<dyn AnyOpen>) -> alloc::sync::Weak<dyn Busy> {
    let open: Arc<dyn Busy> = Arc::clone(open) as Arc<dyn Busy>;
    Arc::downgrade(&open)
}
