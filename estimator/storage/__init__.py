"""File access for local paths, gs:// and s3://. No JAX."""

from estimator.storage.files import append as append
from estimator.storage.files import children as children
from estimator.storage.files import create as create
from estimator.storage.files import download as download
from estimator.storage.files import exists as exists
from estimator.storage.files import facts as facts
from estimator.storage.files import glob as glob
from estimator.storage.files import is_file as is_file
from estimator.storage.files import is_folder as is_folder
from estimator.storage.files import is_pattern as is_pattern
from estimator.storage.files import is_remote as is_remote
from estimator.storage.files import join as join
from estimator.storage.files import listing as listing
from estimator.storage.files import listing_with_facts as listing_with_facts
from estimator.storage.files import new_file as new_file
from estimator.storage.files import open as open
from estimator.storage.files import read_bytes as read_bytes
from estimator.storage.files import remove as remove
from estimator.storage.files import replacing as replacing
from estimator.storage.files import size as size
from estimator.storage.files import upload as upload
from estimator.storage.files import write_bytes_atomic as write_bytes_atomic
from estimator.storage.files import write_json_atomic as write_json_atomic
