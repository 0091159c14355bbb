"""`import`: old files of a lab (GLM-4V, ms-swift, Phi-3, `conversations`, CSV, the source lab's tree) -> datasets."""
