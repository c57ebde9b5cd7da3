"""The lab's world for those who break it: scenarios, demonstrations, tests.

    world = World.up(state_dir)                 # two regions, real servers; about ten seconds. Cleans what a dead one left
    world = World.attach(state_dir)             # the same world from another process
    world.down(); World.clean(state_dir)        # nothing is left; the second also where nobody knows what is there

    app = world.hosts["app"]                    # hosts: topology.py draws them
    app.run(["ping", "-c1", "198.18.3.10"])     # CompletedProcess[str]; check=True, timeout, env, input, inside its namespace
    app.spawn(["psql", "-c", "select pg_sleep(60)"])  # Popen; ended by clear()
    app.address(4); app.addresses(6)
    app.sysctl("net.ipv4.tcp_syn_retries", 2)   # put back by clear()
    app.inside(lambda: socket.create_connection(...))  # a call in a thread inside the namespace

    world.link("east-a")                        # emulator's LinkControl: emulated are east-a west-a east-b west-b lb db-east
    world.usual("east-a")                       # its LinkSettings when nothing is broken (the transit's delay)
    world.cut("east-a"); world.mend("east-a")   # any link, also those without an emulator
    world.mtu("east-a", 1400)                   # both ends' interfaces; end="left" or "right" for one
    world.interface("fw-db", "left")            # (host, interface name)
    world.nft("fw", "chain forward { type filter hook forward priority 0; tcp dport 5433 drop; }")
                                                # the inside of "table inet netdiag" of that host, replaced whole
    world.service("dns1").stop() .start() .restart() .signal(SIGSTOP) .kill() .reload() .is_running()
                                                # services: dns1 dns2 dns-auth lb db-east db-west health-east health-west
                                                # edge-east edge-west transit-a transit-b, and one link:NAME per emulator
    world.service("lb").configure(text)         # its configuration, then reload; clear() puts the pristine one back
    world.service("lb").configuration           # the text in force
    world.sql("db-east", "ALTER SYSTEM SET max_connections = 5")  # as superuser, over the local socket; rows as text
    world.zone.set("db", "A", ["198.18.1.20"], ttl_s=60)  # vantage.example at dns-auth; an empty list removes
    world.zone.publish()                        # new serial, reload; resolvers' caches flushed unless flush=False
    world.resolver("dns1").override("db", ["198.18.1.99"])  # what this resolver alone says; .refuse(), .flush()
    world.authority.issue(names, valid=(start, end))        # TlsFiles from the lab's own CA; see certificates.py
    world.install_certificate("db-east", files)  # and reload
    world.clear()                               # the pristine state again: verified, LabError names what differs

    world.plan_toml()                           # the plan for netdiag; family=4 or 6 picks addresses instead of names
    world.run_netdiag(["run", "--plan", str(path)])  # inside app, as the application's user would: CompletedProcess[str]
    world.environment                           # what run_netdiag sets: HOME with .pgpass and the lab's CA

Every process, namespace and folder is written to the state file before it is made (journal.py), so a world whose owner
was killed is still known. All calls are for one thread at a time.
"""
