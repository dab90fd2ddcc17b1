"""python -m headstart_predict"""

from headstart_predict.cli import main

main()
