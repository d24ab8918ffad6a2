from services.process.main import main

main()
