"""The layers of the package, from the lowest to the highest."""

# a layer imports only from itself and the layers before it
LAYERS = (  # modules by their first names after ``compactnets.``, or longer ones
    (
        *("compiler", "errors", "source", "environment", "files", "nn", "pictures", "telemetry", "timing", "values"),
        *("failures", "folders", "starting", "stopping"),
    ),
    ("console", "locks"),
    ("models",),
    ("complexity",),
    ("data",),
    ("training.fused",),
    ("training",),
    ("classification",),
    ("papers", "plots", "deploy", "drawing"),
    ("tasks",),
    ("latency", "web", "quantization"),
    ("detection", "classification.quantization", "classification.examples"),
    ("segmentation", "multilabel"),
    ("classification.task", "classification.grid", "papers.ablation"),  # the whole of a task, and what trains by it
    ("search",),
    ("recorded", "api"),
    ("catalogue", "hub", "quickstart", "report"),
)
