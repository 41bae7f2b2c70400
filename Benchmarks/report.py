"""What the network's benchmarks say: docs/performance.md and the plots beside it, made from Benchmarks/results.json."""

import json
import pathlib
import statistics

HERE = pathlib.Path(__file__).parent
DOCS = HERE.parent / "docs"
OURS, DROP_IN, PACKET, NATIVE = "workspacekit", "workspacekit slirp4netns", "workspacekit, packet link", "native"
PEERS = ("slirp4netns", "slirp4netns, MTU 1500", "pasta", "pasta, MTU 1500")
COLOURS = {NATIVE: "#9aa5b1", OURS: "#1f6feb", PACKET: "#79b8ff", "slirp4netns": "#d9822b", "slirp4netns, MTU 1500": "#f0b67f", "pasta": "#3fa45b", "pasta, MTU 1500": "#9ad3ab", DROP_IN: "#1f6feb"}


class Results:
    def __init__(self, network):
        self.network = network

    def median(self, measure, tool, field):
        values = [entry[field] for entry in self.network.get(measure, {}).get(tool, []) if entry.get(field) is not None]
        values = [value for value in values if value == value]
        return statistics.median(values) if values else None

    def best(self, measure, field, tools=PEERS, lowest=False):
        found = [value for value in (self.median(measure, tool, field) for tool in tools) if value]
        return (min(found) if lowest else max(found)) if found else None


# Measured by hand, with a release build in namespaces of the lab's kind on two processors.
SHORT_CONNECTIONS = (
    "Many short connections to one address and port are bounded by port numbers. 20,000 of them, 16 at once, took 7.8 s natively "
    "and 2.4 s from a workspace, 1.8 s of it on the forwarder's processor. Natively half of the time goes into connect(2), which "
    "from 14,000 connections within a minute on looks at each port in TIME_WAIT; the workspace's kernel uses such a port again "
    "after a second (net.ipv4.tcp_tw_reuse is 1 inside, 17.3 s without), and the forwarder's sockets have a range of their own "
    "(IP_LOCAL_PORT_RANGE). The container's ports are a limit for both: 28,233 connections to one endpoint within a minute, and "
    "near it the search is long again. Of 30,000 the same 1,768 failed natively and from a workspace, after 39 s and 16 s.")


def lines(r):
    """The lines of the design's table: what, how much, the bound, and whether it holds."""
    out = []

    def ratio(title, value, reference, bound, whose):
        if value is None or not reference:
            out.append((title, "not measured", f"{bound} × {whose}", None))
        else:
            out.append((title, f"{value / reference:.2f} × {whose}", f"{bound} ×", value / reference >= bound))

    for flows in (1, 8):
        for way in ("up", "down"):
            measure, title = f"bulk {way}, {flows}", f"TCP, {flows} flow{'s' if flows > 1 else ''} {way}"
            ours = r.median(measure, OURS, "gbits")
            ratio(title, ours, r.median(measure, NATIVE, "gbits"), 0.6, "native")
            ratio(title, ours, r.best(measure, "gbits"), 1.2, "the best peer at its best MTU")
            if flows == 1:
                ratio(title, ours, r.best(measure, "gbits", [peer for peer in PEERS if "1500" in peer]), 5, "the best peer at MTU 1500")
    for way in ("up", "down"):
        ours = r.median(f"nested {way}", OURS, "gbits")
        ratio(f"nested bridge, {way}", ours, r.median(f"bulk {way}, 1", OURS, "gbits"), 0.8, "un-nested")
        ratio(f"nested bridge, {way}", ours, r.best(f"nested {way}", "gbits"), 5, "the best peer")
    for measure in ("bulk up, 1", "bulk down, 1", "bulk up, 8", "bulk down, 8", "nested up", "nested down"):
        cost = r.median(measure, OURS, "cpu_s_per_gib")
        if cost is not None:
            out.append((f"forwarder's CPU, {measure}", f"{cost:.2f} s/GiB", "≤ 0.4", cost <= 0.4))
    for way in ("to the workspace", "from the workspace"):
        measure = f"inbound {way}"
        ratio(measure, r.median(measure, OURS, "gbits"), r.median(measure, NATIVE, "gbits"), 0.6, "native")
    for measure, title in (("requests", "request and response"), ("connects", "connect, request, close")):
        ratio(title, r.median(measure, OURS, "rate"), r.best(measure, "rate"), 1.2, "the best peer")
        p99, peer = r.median(measure, OURS, "p99_us"), r.best(measure, "p99_us", lowest=True)
        ratio(f"{title}, p99 (how much shorter)", peer, p99, 1.2, "the best peer")
    for way in ("up", "down"):
        for size, bound in (("64 B", 1.5), ("1400 B", 1.5), ("1400 B, GSO", 5)):
            measure = f"datagrams {way}, {size}"
            ratio(measure, r.median(measure, OURS, "rate"), r.best(measure, "rate"), bound, "the best peer")
    for window in (1, 16):
        ratio(f"look-ups, {window} under way", r.median(f"names, {window}", OURS, "rate"), r.best(f"names, {window}", "rate"), 1.3, "the best peer")
    for field, bound, title in (("idle_mib", 6, "memory (PSS) idle"), ("held_mib", 16, "memory (PSS) with 10,000 connections")):
        value = r.median("held", OURS, field)
        if value is not None:
            out.append((title, f"{value:.1f} MiB", f"≤ {bound} MiB", value <= bound))
    alive = r.median("held", OURS, "alive")
    if alive is not None:
        out.append(("10,000 connections, alive", f"{alive:.0f}", "10000", alive == 10000))
    ratio("10,000 connections, native's time to ours", r.median("held", NATIVE, "seconds"), r.median("held", OURS, "seconds"), 0.5, "as long")
    ratio("start to first connect, slirp4netns's time to ours", r.median("first connect", "slirp4netns", "ms"), r.median("first connect", DROP_IN, "ms"), 1, "as long")
    for way in ("up", "down"):
        ratio(f"1 % loss and 20 ms, {way}", r.median(f"lossy {way}", OURS, "gbits"), r.median(f"lossy {way}", NATIVE, "gbits"), 0.9, "native")
    return out


def wild_lines(results):
    """What was measured in the wild, in words."""
    out = []
    container, dockerd, many = results.get("container_ms"), results.get("dockerd_ms"), results["fleet"]
    if container and all(container.values()):
        out.append(f"`docker run` to the first line of the first task: {container['workspacekit']:.0f} ms as a whole workspace, {container['tini']:.0f} ms under tini, "
                   f"{container['nothing']:.0f} ms under nothing ({container['workspacekit'] / container['tini']:.2f} × tini's), same image and flags.")
    if dockerd and all(dockerd.values()):
        out.append(f"An ordinary user's `dockerd --rootless` answers {dockerd['workspacekit']:.0f} ms after exec of workspacekit, {dockerd['rootlesskit']:.0f} ms after that of "
                   f"RootlessKit with slirp4netns ({dockerd['workspacekit'] / dockerd['rootlesskit']:.2f} ×).")
    out.append(f"{many['workspaces']} workspaces with one idle service each were up together after {many['all_up_s']:.1f} s; each takes {many['pss_mib_each']:.1f} MiB (PSS, all its "
               f"processes), and all of them together {many['processor_percent_all']:.1f} % of one processor at rest.")
    return out


def bars(path, title, unit, groups):
    """A plot of horizontal bars: groups of (name, [(tool, value)])."""
    width, left, row, gap = 860, 250, 20, 16
    peak = max((value for _, entries in groups for _, value in entries), default=1) or 1
    y, body = 44, []
    for name, entries in groups:
        body.append(f'<text x="8" y="{y + 12}" font-weight="bold">{name}</text>')
        y += row
        for tool, value in entries:
            length = max(1, (width - left - 110) * value / peak)
            figure = f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"
            body.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{tool}</text>'
                        f'<rect x="{left}" y="{y + 2}" width="{length:.1f}" height="{row - 6}" rx="2" fill="{COLOURS[tool]}"/>'
                        f'<text x="{left + length + 6:.1f}" y="{y + 13}">{figure}</text>')
            y += row
        y += gap
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" font-family="sans-serif" font-size="12" fill="#24292f">'
                    f'<rect width="100%" height="100%" fill="white"/><text x="8" y="22" font-size="15">{title} ({unit})</text>{"".join(body)}</svg>\n')


def plots(r, folder):
    folder.mkdir(exist_ok=True)
    tools = (NATIVE, OURS, PACKET, *PEERS)

    def group(measure, field, title=None, among=tools):
        found = [(tool, r.median(measure, tool, field)) for tool in among]
        return title or measure, [(tool, value) for tool, value in found if value]

    bars(folder / "throughput.svg", "TCP throughput", "Gbit/s", [group(measure, "gbits") for measure in (
        "bulk up, 1", "bulk down, 1", "bulk up, 8", "bulk down, 8", "nested up", "nested down", "inbound to the workspace", "inbound from the workspace")])
    bars(folder / "processor.svg", "Forwarder's processor time", "s/GiB, less is better", [group(measure, "cpu_s_per_gib", among=tools[1:]) for measure in (
        "bulk up, 1", "bulk down, 1", "bulk up, 8", "bulk down, 8", "nested up", "nested down")])
    bars(folder / "rates.svg", "Requests, connections and look-ups", "a second", [group(measure, "rate") for measure in ("requests", "connects", "names, 1", "names, 16")])
    bars(folder / "datagrams.svg", "Datagrams at less than 1 % loss", "thousands a second",
         [(title, [(tool, value / 1000) for tool, value in entries]) for title, entries in (
             group(f"datagrams {way}, {size}", "rate") for way in ("up", "down") for size in ("64 B", "1400 B", "1400 B, GSO"))])
    bars(folder / "memory.svg", "Forwarder's memory (PSS)", "MiB, less is better",
         [group("held", "idle_mib", "idle", tools[1:]), group("held", "held_mib", "with 10,000 connections asked for", tools[1:])])


def write(results):
    """docs/performance.md and docs/plots from what was measured."""
    r = Results(results["network"])
    table = lines(r)
    plots(r, DOCS / "plots")
    missed = [line for line in table if line[3] is False]
    missing = "".join(f"* {title}: {value}, wanted {bound}\n" for title, value, bound, _ in missed)
    text = f"""# Performance

One interleaved run of `make bench`: {results["rounds"]} rounds of native veth, Debian's slirp4netns and pasta (each at MTU 65520 and at
1500) and workspacekit at MTU 1500, on a shared machine of {results["processors"]} processors. Medians; ratios count, not Gbit/s. All
namespaces use reno; every forwarder runs as the same ordinary user. `Benchmarks/results.json` has every figure.

{len([line for line in table if line[3]])} of {len(table)} bounds hold in this run.{" Not:" if missed else ""}

{missing}
| what | workspacekit | at least | |
| --- | --- | --- | --- |
"""
    text += "".join(f"| {title} | {value} | {bound} | {'yes' if met else 'no' if met is False else '–'} |\n" for title, value, bound, met in table)
    text += "\n" + "\n".join(f"![{name}](plots/{name}.svg)" for name in ("throughput", "processor", "rates", "datagrams", "memory")) + "\n"
    start = r.median("first connect", OURS, "ms")
    if start:
        text += f"\nA whole workspace, all rings and the supervisor, has its first connection to the outside {start:.0f} ms after exec.\n"
    if "wild" in results:
        text += "".join(f"\n{line}\n" for line in wild_lines(results["wild"]))
    text += ("\nOne request at a time is a question of how soon processes are woken: where small messages follow each other within 50 µs, the "
             "forwarder looks for the next one before it sleeps, which costs a processor that would be idle and is why a request can be quicker than "
             "through the native path, whose ends sleep. Runs on a shared machine differ by a factor of two in the bulk lines.\n")
    text += "\n" + SHORT_CONNECTIONS + "\n"
    text += "\nHow bytes travel, and why this is quick: [network](network.md).\n"
    (DOCS / "performance.md").write_text(text)


if __name__ == "__main__":
    write(json.loads((HERE / "results.json").read_text()))
