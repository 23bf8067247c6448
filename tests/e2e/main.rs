//! End-to-end tests on real processes: one etcd, three bookies, two brokers, and the commands that users type. No
//! test here knows anything but the command line, the files of the harness, and what the documentation promises.

mod commands;
mod deletion;
mod disaster;
mod disks;
mod doctor;
mod etcd_leader;
mod faces;
mod failover;
mod faults;
mod flights;
mod flood;
mod full;
mod groups;
mod growth;
mod kafka_admin;
mod ledgers;
mod metastore;
mod migrate;
mod moves;
mod observed;
mod outage;
mod quotas;
mod reads;
mod refusals;
mod repair;
mod retention;
mod rolling;
mod skew;
mod standalone;
mod stops;
mod store_faults;
mod tiering;
mod tls;
mod topic;
mod uploads;
