//! What clients hold has no power to remove or to hide.
use kernfs::{Client, Inode, OpenFile};

fn try_it(client: Client, inode: Inode, file: OpenFile) {
    client.remove();
    inode.sever();
    inode.hide();
    file.remove();
}

fn main() {}
