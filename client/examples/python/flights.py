"""Writes and reads the flights data: flights.py HOST:PORT TOPIC produce FILE | consume GROUP ROWS

Needs grpcio, and stubs that grpcio-tools makes of the project's own files:
  python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. proto/geminga/v1/*.proto
"""
import itertools, queue, sys
import grpc
from geminga.v1 import stream_pb2 as pb, stream_pb2_grpc

def produce(stub, topic, path):
    requests, ids = queue.Queue(), itertools.count()
    answers = (r for response in stub.Produce(iter(requests.get, None)) for r in response.results)

    def send(elements):
        """Until all are acknowledged. Records whose outcome is unknown are sent again, so may be there twice."""
        while elements:
            requests.put(pb.ProduceRequest(elements=elements))
            results = {r.id: r for r in itertools.islice(answers, len(elements))}
            elements, first = [e for e in elements if results[e.id].HasField("error")], {}
            for element in elements:  # Each partition goes on at the first element that failed, in order.
                result = results[element.id]
                if not result.error.retriable:
                    sys.exit(f"{result.error.message} ({result.error.reason})")
                if result.HasField("partition"):  # Once chosen, it stays.
                    element.partition = result.partition
                place = (element.HasField("partition"), element.partition)
                element.restart = first.setdefault(place, element.id) == element.id

    with open(path) as file:
        rows = enumerate(itertools.islice(file, 1, None))  # without the header
        while chunk := list(itertools.islice(rows, 20_000)):
            batches = {}  # by tail number: an element goes to one partition, which its key chooses
            for number, row in chunk:
                key, value = row.split(",")[11].encode(), f"{number},{row.rstrip()}".encode()
                batches.setdefault(key, pb.Records()).records.add(key=key, value=value)
            send([pb.ProduceElement(id=next(ids), topic=topic, records=r) for r in batches.values()])
    requests.put(None)

def consume(stub, topic, group, count):
    requests, ask = queue.Queue(), lambda **op: requests.put(pb.ConsumeRequest(**op))
    ask(join=pb.ConsumeJoin(group=group, topics=[topic], offset_reset=pb.OFFSET_RESET_EARLIEST))
    ask(credit=pb.ConsumeCredit(bytes=8 << 20))
    for event in stub.Consume(iter(requests.get, None)):
        if event.HasField("error"):
            sys.exit(f"{event.error.message} ({event.error.reason})")
        if event.HasField("revoke"):  # All that was printed has been committed before.
            ask(revoked=pb.ConsumeRevoked(generation=event.revoke.generation))
        if event.HasField("data"):
            data, records = event.data, event.data.records
            sys.stdout.writelines(record.value.decode() + "\n" for record in records.records)
            offset = pb.CommitOffset(topic=topic, partition=data.partition, offset=data.next_offset)
            count -= len(records.records)
            ask(commit=pb.ConsumeCommit(id=max(count, 0), offsets=[offset]))
            ask(credit=pb.ConsumeCredit(bytes=records.ByteSize()))
        if event.HasField("committed") and event.committed.id == 0:
            ask(leave=pb.ConsumeLeave())
            requests.put(None)

stub = stream_pb2_grpc.StreamStub(grpc.insecure_channel(sys.argv[1]))
{"produce": produce, "consume": consume}[sys.argv[3]](stub, sys.argv[2], sys.argv[4], *map(int, sys.argv[5:]))
