"""What to measure next, given what was measured so far: a pure stepper.

Light probes come first for every address; a deep probe follows only from what a light one showed. When nothing is
left to ask, light sampling goes on until ``watch_s``, so that a fault that is bad for 10 s in every 30 is caught.
Probes that time an address run one after the other (ICMP beside them), so that none measures another's traffic; loss,
route, packet sizes and replication time nothing, and run beside each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from netdiag.diagnosis.thresholds import LINK_LOSS
from netdiag.evidence import Evidence
from netdiag.plan.endpoints import is_address, is_database, is_local_name, peers_of
from netdiag.plan.model import Baseline, Credentials, Endpoint, Health, Plan, Router
from netdiag.plan.units import mebibytes
from probes.balancer import BalancerOptions
from probes.bulk import BulkOptions
from probes.database import DatabaseMeasurement, DatabaseOptions, Phase
from probes.host import HostOptions
from probes.idle import LOGIN_AFTER_S, IdleOptions
from probes.latency import LatencyMeasurement, LatencyOptions
from probes.loss import LossOptions
from probes.model import Measurement, MeasurementOutcome, Outcome, Target, value
from probes.mtu import MtuOptions
from probes.names import DnsQuery, NamesMeasurement, NamesOptions
from probes.path import PathMeasurement, PathOptions
from probes.ports import PortsMeasurement, PortsOptions, PortState
from probes.replication import ReplicationOptions
from probes.routing import RoutingOptions

MOST_ADDRESSES = 8  # of one name: enough for a balancer in every zone, few enough to stay polite
LOSS_ATTEMPTS, LOSS_INTERVAL_S = 120, 0.2  # 24 s at most: an accident is told from loss, and the budget holds it
LOSS_IN_FLIGHT = 5  # batches of a second each: a lost packet is known as such, and not as late, after four
NAME_SAMPLES = 150  # queries to one resolver at most; fifty answered ones rule out that one in ten is lost
RECHECK_S = 20.0  # for a backend's health check to fail as often as takes it out; its interval is cut to fit in
ROUTE_S = 10.0  # between two walks of a path whose normal networks are known: a route that comes and goes
IDLE_AFTERWARDS_S = 8.0  # of the watch, for what became of the longest silence
IDLE_LEAST_S = 8.0  # a shorter silence is not worth four connections: no firewall's timeout is that short
SAMPLE_S = 5.0  # length of one piece of the light sampling: what an interruption can cost


@value
class Request:
    """One probe to run. ``id`` is the measurement's: from vantage, probe, subject and ordinal."""

    id: str
    probe: str
    target: Target
    options: Any
    sampling: bool = False


@value
class ScheduleSettings:
    vantage: str
    watch_s: float = 35.0  # 0: stop at the first verdict
    icmp: bool = True  # an ICMP socket is allowed here
    own_host: bool = False  # this host's own tables are read before, during and after


class Schedule:
    """``next(evidence, elapsed_s)`` gives the requests that became due; each is given once."""

    def __init__(self, plan: Plan, settings: ScheduleSettings) -> None:
        self._plan = plan
        self._settings = settings
        self._issued: dict[str, Request] = {}
        self._begun: dict[str, float] = {}  # seconds after the start, by the request's id
        self._looked = False  # at this host's own tables, at the end

    def next(self, evidence: Evidence, elapsed_s: float) -> tuple[Request, ...]:
        finished = {measurement.id: measurement for measurement in evidence}
        due = [request for request in self._wanted(evidence, finished, elapsed_s) if request.id not in self._issued]
        if not due and self._issued.keys() <= finished.keys():
            due = self._bulk(evidence, finished) or self._last_look()
        self._issued.update((request.id, request) for request in due)
        self._begun.update((request.id, elapsed_s) for request in due)
        return tuple(due)

    def settled(self, evidence: Evidence) -> bool:
        """True once everything but the sampling is in: the first verdict can be given."""
        finished = {measurement.id for measurement in evidence}
        asked = [request for request in self._issued.values() if not request.sampling]
        return bool(asked) and all(request.id in finished for request in asked)

    def _wanted(self, evidence: Evidence, finished: dict[str, Measurement[Any]], elapsed_s: float) -> Iterator[Request]:
        yield from self._own_host(finished, elapsed_s)
        yield from self._routers(finished, elapsed_s)
        yield from self._names(finished)
        for endpoint in self._plan.endpoints:
            yield from self._balancer(endpoint, evidence)
        chains = self._chains(evidence, finished)
        compared = self._compared(chains)
        for chain in chains:
            yield from chain.wanted(elapsed_s, compare=chain.endpoint.name in compared)

    def _chains(self, evidence: Evidence, finished: dict[str, Measurement[Any]]) -> list[_AddressChain]:
        return [
            _AddressChain(self._plan, self._settings, endpoint, address, finished, self._begun)
            for endpoint in self._plan.endpoints
            for address in addresses_of(endpoint, evidence)
        ]

    def _bulk(self, evidence: Evidence, finished: dict[str, Measurement[Any]]) -> list[Request]:
        """Where it is asked for, and after everything else, one at a time: it loads the way that others time."""
        wanted = (chain.bulk_read() for chain in self._chains(evidence, finished))
        left = [request for request in wanted if request is not None and request.id not in self._issued]
        return left[:1]

    def _compared(self, chains: list[_AddressChain]) -> set[str]:
        """Endpoints whose loss must be known beside that of a balancer which seems to lose packets."""
        suspects = [c.endpoint for c in chains if c.endpoint.role == "load-balancer" and c.suspects_loss()]
        return {peer.name for balancer in suspects for peer in peers_of(self._plan, balancer)}

    def _balancer(self, endpoint: Endpoint, evidence: Evidence) -> Iterator[Request]:
        """The balancer's own check, once every backend's name is resolved or known not to be."""
        backends = [other for other in self._plan.endpoints if other.name in endpoint.backends]
        checked = endpoint.health is not None and bool(backends)
        if not (checked or endpoint.stats) or not all(_looked_up(backend, evidence) for backend in backends):
            return
        addresses = tuple(dict.fromkeys(a for backend in backends for a in addresses_of(backend, evidence)))
        yield Request(
            id=f"{self._settings.vantage}/balancer/{endpoint.name}/1",
            probe="balancer",
            target=Target(host=endpoint.host, port=endpoint.port, endpoint=endpoint.name),
            options=_balancer_options(endpoint, addresses if checked else ()),
        )

    def _routers(self, finished: dict[str, Measurement[Any]], elapsed_s: float) -> Iterator[Request]:
        """Each router's own sessions at the start, and again while the sampling goes on."""
        for router in (router for router in self._plan.routers if router.bird is not None):
            ordinal, due = 1, True
            while due:
                request = self._router(router, ordinal)
                yield request
                due = request.id in finished and ordinal * SAMPLE_S <= elapsed_s < self._settings.watch_s
                ordinal += 1

    def _router(self, router: Router, ordinal: int) -> Request:
        return Request(
            id=f"{self._settings.vantage}/routing/{router.name}/{ordinal}",
            probe="routing",
            target=Target(host=router.name),
            options=RoutingOptions(router=router.name, bird=router.bird),
            sampling=ordinal > 1,
        )

    def _own_host(self, finished: dict[str, Measurement[Any]], elapsed_s: float) -> Iterator[Request]:
        """Its tables at the start, and again while the sampling goes on: a run that is cut short has no last look."""
        ordinal, due = 1, self._settings.own_host
        while due:
            request = self._host(ordinal)
            yield request
            due = request.id in finished and ordinal * SAMPLE_S <= elapsed_s < self._settings.watch_s
            ordinal += 1

    def _last_look(self) -> list[Request]:
        """The same tables once nothing else is left to ask."""
        looks = [ordinal for ordinal in range(1, 1 + len(self._issued)) if self._host(ordinal).id in self._issued]
        asked = any(request.probe != "host" for request in self._issued.values())
        if not looks or not asked or self._looked:
            return []
        self._looked = True
        return [self._host(len(looks) + 1, sampling=False)]

    def _host(self, ordinal: int, *, sampling: bool | None = None) -> Request:
        return Request(
            id=f"{self._settings.vantage}/host/{self._settings.vantage}/{ordinal}",
            probe="host",
            target=Target(host=self._settings.vantage),
            options=HostOptions(),
            sampling=ordinal > 1 if sampling is None else sampling,
        )

    def _names(self, finished: dict[str, Measurement[Any]]) -> Iterator[Request]:
        """Every name once; then, at a name that it knows, each resolver's share of lost queries."""
        hosts = [e.host for e in self._plan.endpoints if e.address is None and not is_address(e.host)]
        asked = [self._name(host, 1, _names_options(host, self._plan.dns.resolvers)) for host in dict.fromkeys(hosts)]
        yield from asked
        if not all(request.id in finished for request in asked):
            return
        for host, resolvers in _sampled(finished[request.id].data for request in asked).items():
            options = NamesOptions(resolvers=resolvers, transports=(), lookup=False, samples=NAME_SAMPLES)
            yield self._name(host, 2, options)

    def _name(self, host: str, ordinal: int, options: NamesOptions) -> Request:
        id_ = f"{self._settings.vantage}/names/{host}/{ordinal}"
        return Request(id=id_, probe="names", target=Target(host=host), options=options)


def _sampled(measured: Iterable[NamesMeasurement | None]) -> dict[str, tuple[str, ...]]:
    """Which resolver to sample at which name. One that only fails is not sampled: its errors tell enough, and their
    time is that of its own servers."""
    best: dict[str, tuple[int, str]] = {}
    for data in measured:
        for resolver in data.resolvers if data else ():
            rank = _fitness([q for q in data.queries if q.resolver == resolver]) if data else 0
            if data and rank > best.get(resolver, (-1, ""))[0]:
                best[resolver] = rank, data.name
    hosts: dict[str, tuple[str, ...]] = {}
    for resolver, (rank, host) in best.items():
        if rank:
            hosts[host] = (*hosts.get(host, ()), resolver)
    return hosts


def _fitness(queries: list[DnsQuery]) -> int:
    """3: it gave an address over UDP; 2: it settled the name; 1: it was silent, and may be slow; 0: anything else."""
    datagrams = [query for query in queries if query.transport == "udp"]
    if any(query.answers for query in datagrams):
        return 3
    settled = (query for query in datagrams if query.rcode in ("NOERROR", "NXDOMAIN"))
    if any({"AA", "RA"}.intersection(query.flags) for query in settled):
        return 2
    return int(bool(datagrams) and all(query.outcome is Outcome.LOST for query in datagrams))


class _AddressChain:
    """The probes of one address of one endpoint, in their order."""

    def __init__(
        self,
        plan: Plan,
        settings: ScheduleSettings,
        endpoint: Endpoint,
        address: str,
        finished: dict[str, Measurement[Any]],
        begun: dict[str, float],
    ) -> None:
        self._begun = begun
        self._plan, self._settings = plan, settings
        self.endpoint = self._endpoint = endpoint
        self._address, self._finished = address, finished
        self._database = is_database(endpoint)
        self._compare = False

    def wanted(self, elapsed_s: float, *, compare: bool = False) -> Iterator[Request]:
        """``compare``: its loss is asked for whether or not a loss was seen, to set another's beside it."""
        self._compare = compare
        if self._settings.icmp:
            yield self._icmp(1)
        if self._endpoint.port is None:
            yield from self._host_only(elapsed_s)
            return
        yield self._request("ports", PortsOptions())
        ports = self._result("ports")
        if not isinstance(ports, PortsMeasurement):
            return
        if ports.ports[0].state is PortState.OPEN:
            yield from self._open_port(elapsed_s)
        else:
            yield from self._blocked_port(ports)

    def _host_only(self, elapsed_s: float) -> Iterator[Request]:
        yield self._request("mtu", MtuOptions())
        yield from self._suspected_icmp_loss()
        if self._done("mtu") and self._done("latency-icmp"):
            if self._normal_route() and self._settings.icmp:
                yield from self._route(elapsed_s)
            yield from self._sampling(elapsed_s)

    def _blocked_port(self, ports: PortsMeasurement) -> Iterator[Request]:
        if self._compare and self._answers("latency-icmp"):
            yield self._request("loss-icmp", self._loss_options("icmp"), probe="loss")
        yield self._request("path", PathOptions())
        if self._done("path") and self._plan.dns.origin_zone is not None:
            yield from self._networks(1)
        control = next((p.port for p in ports.ports if p.control and p.state is PortState.RESET), None)
        if control is not None and self._done("path"):
            yield self._request("path", PathOptions(), ordinal=2, port=control)

    def _open_port(self, elapsed_s: float) -> Iterator[Request]:
        yield from self._suspected_icmp_loss()
        if self._database:
            yield self._request("database", self._database_options())
            if not self._done("database"):
                return
        yield self._request("latency-tcp", LatencyOptions(method="tcp"), probe="latency")
        if not self._done("latency-tcp"):
            return
        yield self._request("mtu", self._mtu_options())
        if self._holds_sessions() and self._endpoint.role != "load-balancer":  # its backends are asked, not whichever
            yield self._request("replication", self._replication_options())
        if self._speaks_postgres():  # beside everything: a few packets, and nothing timed
            yield from self._idle(elapsed_s)
        if self._slower_than_baseline() or self._normal_route():  # beside the sizes: neither of them times anything
            yield from self._route(elapsed_s)
        yield from self._suspected_tcp_loss()
        if not self._done("mtu") or (self._settings.icmp and not self._done("latency-icmp")):
            return
        yield from self._sampling(elapsed_s)

    def _route(self, elapsed_s: float) -> Iterator[Request]:
        """The path, then whose networks it crosses; both again while sampling, where the normal ones are known."""
        yield self._walk(1)
        if self._plan.dns.origin_zone is None:
            return
        ordinal = 1
        while self._done("path", ordinal):
            yield from self._networks(ordinal)
            early = elapsed_s < self._begun[self._id("path", ordinal)] + ROUTE_S
            last = early or elapsed_s >= self._settings.watch_s or not self._normal_route()
            ordinal += 1
            if last and not self._done("path", ordinal):
                return
            yield self._walk(ordinal)

    def _idle(self, elapsed_s: float) -> Iterator[Request]:
        """As long a silence as the watch has time for."""
        seconds = min(self._settings.watch_s - IDLE_AFTERWARDS_S - elapsed_s, LOGIN_AFTER_S)
        if seconds >= IDLE_LEAST_S:
            yield self._request("idle", self._idle_options(seconds), sampling=True)

    def bulk_read(self) -> Request | None:
        size = self._plan.limits.bulk_read
        if size is None or not self._holds_sessions():
            return None
        return self._request("bulk", self._bulk_options(mebibytes(size)))

    def _walk(self, ordinal: int) -> Request:
        options = PathOptions(method="icmp" if self._endpoint.port is None else "tcp")
        return self._request("path", options, ordinal=ordinal, sampling=ordinal > 1)

    def _networks(self, ordinal: int) -> Iterator[Request]:
        """Nobody is told of the hops but the zone that the plan names."""
        measurement = self._finished[self._id("path", ordinal)]
        hops = _hop_addresses(measurement.data) if isinstance(measurement.data, PathMeasurement) else ()
        if any(hops):
            dns = self._plan.dns
            options = RoutingOptions(hops=hops, origin_zone=dns.origin_zone, resolvers=dns.resolvers)
            yield self._request("routing", options, ordinal=ordinal, sampling=ordinal > 1)

    def _normal_route(self) -> bool:
        """The plan knows which networks lie between here and there."""
        here = {self._settings.vantage, self._plan.vantage.name, self._plan.vantage.region}
        return any(baseline.as_path and baseline.source in here for baseline in self._baselines())

    def _suspected_icmp_loss(self) -> Iterator[Request]:
        """A loss seen in passing is a question; the sequential verdict answers it."""
        only_icmp = self._compare and self._endpoint.port is None
        if (self._lossy("latency-icmp") or only_icmp) and self._answers("latency-icmp"):
            yield self._request("loss-icmp", self._loss_options("icmp"), probe="loss")

    def _suspected_tcp_loss(self) -> Iterator[Request]:
        lossy = self._lossy("latency-tcp") or self._retransmitted() or self._echoes_alone_tell()
        if self._compare or lossy:
            yield self._request("loss-tcp", self._loss_options("tcp"), probe="loss")

    def _echoes_alone_tell(self) -> bool:
        """Echoes are lost: a rate limit, or the path? TCP decides, and a held session will not be asked in time."""
        watched = self._settings.watch_s > 0 and self._holds_sessions()
        return self._lossy("latency-icmp") and self._answers("latency-icmp") and not watched

    def suspects_loss(self) -> bool:
        return self._lossy("latency-icmp") or self._lossy("latency-tcp") or self._retransmitted()

    def _loss_options(self, method: str) -> LossOptions:
        """The question is the one that link.loss decides by: more than is allowed here?"""
        normal = [b.loss for b in self._baselines() if b.loss is not None]
        question = max([LINK_LOSS, *normal])
        return LossOptions(
            method=method,
            question=question,
            tolerated=None,
            count=LOSS_ATTEMPTS,
            interval_s=LOSS_INTERVAL_S,
            in_flight=LOSS_IN_FLIGHT,
        )

    def _baselines(self) -> list[Baseline]:
        places = {self._endpoint.name, self._endpoint.region}
        return [baseline for baseline in self._plan.baselines if baseline.target in places]

    def _sampling(self, elapsed_s: float) -> Iterator[Request]:
        kinds = self._sampled_kinds()
        ordinal = 2
        while kinds and all(self._done(kind, ordinal) for kind in kinds):
            ordinal += 1
        if elapsed_s + SAMPLE_S / 2 > self._settings.watch_s:
            return
        for kind in kinds:
            yield self._sample(kind, ordinal)

    def _sampled_kinds(self) -> tuple[str, ...]:
        icmp = ("latency-icmp",) if self._settings.icmp and self._answers("latency-icmp") else ()
        if self._holds_sessions():
            return (*icmp, "database")
        return icmp if self._endpoint.port is None else (*icmp, "latency-tcp")

    def _sample(self, kind: str, ordinal: int) -> Request:
        if kind == "latency-icmp":
            return self._icmp(ordinal, count=int(SAMPLE_S / 0.2), sampling=True)
        if kind == "database":
            options: Any = self._database_options(attempts=1, hold_s=SAMPLE_S)
            return self._request("database", options, ordinal=ordinal, sampling=True)
        options = LatencyOptions(method="tcp", count=int(SAMPLE_S / 0.5), interval_s=0.5)
        return self._request("latency-tcp", options, probe="latency", ordinal=ordinal, sampling=True)

    def _icmp(self, ordinal: int, count: int = 20, *, sampling: bool = False) -> Request:
        options = LatencyOptions(method="icmp", count=count, interval_s=0.2 if sampling else 0.1, timeout_s=2.0)
        return self._request("latency-icmp", options, probe="latency", ordinal=ordinal, sampling=sampling)

    def _request(
        self,
        kind: str,
        options: Any,
        *,
        probe: str | None = None,
        ordinal: int = 1,
        port: int | None = None,
        sampling: bool = False,
    ) -> Request:
        return Request(
            id=self._id(kind, ordinal),
            probe=probe or kind,
            target=Target(
                host=self._endpoint.host,
                address=self._address,
                port=port or self._endpoint.port,
                endpoint=self._endpoint.name,
            ),
            options=options,
            sampling=sampling,
        )

    def _id(self, kind: str, ordinal: int) -> str:
        return f"{self._settings.vantage}/{kind}/{self._endpoint.name}/{self._address}/{ordinal}"

    def _done(self, kind: str, ordinal: int = 1) -> bool:
        return self._id(kind, ordinal) in self._finished

    def _result(self, kind: str) -> Any:
        measurement = self._finished.get(self._id(kind, 1))
        return measurement.data if measurement and measurement.outcome is MeasurementOutcome.MEASURED else None

    def _lossy(self, kind: str) -> bool:
        ordinals = (m for id_, m in self._finished.items() if id_.startswith(self._id(kind, 0)[:-1]))
        return any(isinstance(m.data, LatencyMeasurement) and m.data.loss.lost > 0 for m in ordinals)

    def _answers(self, kind: str) -> bool:
        latency = self._result(kind)
        return isinstance(latency, LatencyMeasurement) and latency.rtt.n > 0

    def _retransmitted(self) -> bool:
        database = self._result("database")
        return isinstance(database, DatabaseMeasurement) and any(
            attempt.handshake.syn_retransmits or attempt.handshake.outcome is Outcome.LOST
            for attempt in database.attempts
        )

    def _slower_than_baseline(self) -> bool:
        latency = self._result("latency-tcp")
        normal = [b.rtt for b in self._baselines() if b.rtt is not None]
        if not isinstance(latency, LatencyMeasurement) or latency.rtt.minimum_s is None or not normal:
            return False
        return latency.rtt.minimum_s > 1.2 * min(normal)

    def _holds_sessions(self) -> bool:
        database = self._result("database")
        if not isinstance(database, DatabaseMeasurement) or not database.credentials:
            return False
        return any(attempt.outcome is Outcome.ANSWERED for attempt in database.attempts)

    def _database_options(self, attempts: int = 3, hold_s: float = 0.0) -> DatabaseOptions:
        credentials = self._endpoint.credentials or Credentials()
        return DatabaseOptions(
            **_login(credentials),
            ssl_negotiation=credentials.sslnegotiation,
            attempts=attempts,
            interval_s=1.0 / self._plan.limits.connections_per_second,
            hold_s=hold_s,
        )

    def _replication_options(self) -> ReplicationOptions:
        return ReplicationOptions(**_login(self._endpoint.credentials or Credentials()))

    def _idle_options(self, seconds: float) -> IdleOptions:
        """A login that was refused is not tried again and again."""
        credentials = (self._holds_sessions() and self._endpoint.credentials) or Credentials()
        return IdleOptions(**_login(credentials), seconds=round(seconds, 1))

    def _bulk_options(self, size: int) -> BulkOptions:
        return BulkOptions(**_login(self._endpoint.credentials or Credentials()), mebibytes=size)

    def _mtu_options(self) -> MtuOptions:
        credentials = self._endpoint.credentials or Credentials()
        return MtuOptions(
            user=credentials.user,
            password=credentials.password,
            dbname=credentials.dbname,
            sslmode=credentials.sslmode,
            use_database=self._database and self._speaks_postgres(),
        )

    def _speaks_postgres(self) -> bool:
        """It answered the SSLRequest, or the login (with sslmode=disable): else a larger conversation is in vain."""
        database = self._result("database")
        return isinstance(database, DatabaseMeasurement) and any(
            timing.phase in (Phase.SSL_REQUEST, Phase.STARTUP) and timing.outcome is Outcome.ANSWERED
            for attempt in database.attempts
            for timing in attempt.phases
        )


def _login(credentials: Credentials) -> dict[str, Any]:
    """As the options of every probe that logs in name it."""
    login = {
        "user": credentials.user,
        "password": credentials.password,
        "dbname": credentials.dbname,
        "sslmode": credentials.sslmode,
        "ssl_root_certificate": credentials.sslrootcert,
        "ssl_certificate": credentials.sslcert,
        "ssl_key": credentials.sslkey,
        "channel_binding": credentials.channel_binding,
    }
    return login | ({"timeout_s": credentials.connect_timeout} if credentials.connect_timeout else {})


def _looked_up(endpoint: Endpoint, evidence: Evidence) -> bool:
    known = endpoint.address is not None or is_address(endpoint.host)
    return known or any(m.probe == "names" and m.target.host == endpoint.host for m in evidence)


def _balancer_options(balancer: Endpoint, addresses: tuple[str, ...]) -> BalancerOptions:
    health = balancer.health or Health(url="")
    return BalancerOptions(
        url=health.url or None,
        backends=addresses,
        matcher=health.matcher,
        interval_s=min(health.interval, RECHECK_S / health.unhealthy),
        timeout_s=health.timeout,
        unhealthy=health.unhealthy,
        stats=balancer.stats,
    )


def _hop_addresses(path: PathMeasurement) -> tuple[str | None, ...]:
    """By TTL, the first that answered; None for a silent hop."""
    return tuple(next((reply.address for reply in hop.replies if reply.address), None) for hop in path.hops)


def _names_options(host: str, resolvers: tuple[str, ...]) -> NamesOptions:
    return NamesOptions(resolvers=resolvers, record_types=() if is_local_name(host) else ("A", "AAAA"))


def addresses_of(endpoint: Endpoint, evidence: Evidence) -> tuple[str, ...]:
    """The stated address (libpq's hostaddr) alone, or a literal; else getaddrinfo's addresses first, then those that
    only some resolver gave; at most MOST_ADDRESSES."""
    if endpoint.address is not None:
        return (endpoint.address,)
    if is_address(endpoint.host):
        return (endpoint.host,)  # a zone ("fe80::1%eth0") says which link: without it nothing can be dialled
    found: dict[str, None] = {}
    for measurement in evidence.of(NamesMeasurement, host=endpoint.host):
        found.update(dict.fromkeys(measurement.data.looked_up if measurement.data else ()))
    for measurement in evidence.of(NamesMeasurement, host=endpoint.host):
        for query in measurement.data.queries if measurement.data else ():
            records = () if query.how == "unchecked" else query.answers  # bogus data is not to be dialled
            found.update((record.value, None) for record in records if record.type in ("A", "AAAA"))
    return tuple(found)[:MOST_ADDRESSES]
