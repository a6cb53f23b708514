//! The page as people meet it: a real browser, a real Panel, the real Agent and a real Engine, from the first set-up to
//! the last log-out. Pictures of every page are kept under `target/screenshots`.
#![cfg(feature = "panel")]

#[path = "../support/mod.rs"]
mod support;

mod files;
mod nodes;
mod people;
mod servers;
mod stage;

use stage::Stage;

#[test]
fn an_admin_sets_up_and_runs_a_server() {
    support::alone("an_admin_sets_up_and_runs_a_server", || {
        let mut stage = Stage::begin();
        people::set_up(&stage);
        servers::join_a_node(&mut stage);
        servers::create_the_demo_server(&mut stage);
        servers::type_and_see_the_answer(&stage);
        servers::charts_move(&stage);
        servers::edit_upload_and_download(&stage);
        servers::change_settings(&stage);
        servers::stop_and_start(&stage);
        servers::see_a_crash(&stage);
        people::look_around(&stage);
        people::a_member_sees_what_is_granted(&stage);
        people::a_second_factor(&stage);
        servers::survive_a_restart_of_the_panel(&mut stage);
        servers::delete_it(&stage);
    });
}

#[test]
fn an_admin_looks_after_a_server_and_its_node() {
    support::alone("an_admin_looks_after_a_server_and_its_node", || {
        let mut stage = Stage::begin();
        // The other story has shown these.
        stage.is_shown = false;
        people::set_up(&stage);
        servers::join_a_node(&mut stage);
        servers::create_the_demo_server(&mut stage);
        stage.is_shown = true;
        people::see_the_first_view_soon(&stage);
        files::drop_with_progress(&stage);
        files::pack_and_unpack(&stage);
        files::set_permissions(&stage);
        files::install_and_remove_a_mod(&stage);
        servers::suspend_and_resume(&stage);
        people::bring_a_template(&stage);
        people::members_do_what_each_may(&stage);
        nodes::maintain(&stage);
        nodes::rotate_the_secret(&mut stage);
        nodes::be_away(&mut stage);
        nodes::revoke(&stage);
    });
}
